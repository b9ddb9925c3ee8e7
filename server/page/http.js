// Talking to the server: JSON with the token, and event streams that go on where they broke off.

const TOKEN = "umbel.token";

export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  set: (value) => (value ? sessionStorage.setItem(TOKEN, value) : sessionStorage.removeItem(TOKEN)),
};

/** What the server refused or could not do. `status` is 0 when it did not answer. */
export class HttpError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const unauthorized = new Set();

/** Call when the server wants another token. */
export function onUnauthorized(listener) {
  unauthorized.add(listener);
}

/** Listeners for whether the server answers. */
const reached = new Set();
export function onReached(listener) {
  reached.add(listener);
}

function headers(more) {
  const held = token.get();
  return held ? { ...more, Authorization: `Bearer ${held}` } : more;
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    for (const listener of reached) listener(false);
    throw new HttpError("The server does not answer.", 0);
  }
  for (const listener of reached) listener(true);
  if (response.status === 401) for (const listener of unauthorized) listener();
  return response;
}

/** GET JSON. */
export async function get(path, signal) {
  return answer(await request(path, { headers: headers({ Accept: "application/json" }), signal }));
}

/** POST JSON. */
export async function post(path, body) {
  const given = headers({ Accept: "application/json", "Content-Type": "application/json" });
  return answer(await request(path, { method: "POST", headers: given, body: JSON.stringify(body ?? {}, (_, v) => v) }));
}

async function answer(response) {
  const text = await response.text();
  const data = text ? parsed(text) : null;
  if (!response.ok) {
    const detail = typeof data?.detail === "string" ? data.detail : `The server answered ${response.status}.`;
    throw new HttpError(response.status === 401 ? "The server wants a token." : detail, response.status);
  }
  return data;
}

/** JSON, with whole numbers beyond 2^53 as BigInt: rounded ones would be wrong ones. */
export function parsed(text) {
  try {
    return JSON.parse(text, (_, value, context) =>
      typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? "")
        ? BigInt(context.source)
        : value,
    );
  } catch {
    return null;
  }
}

/**
 * Follow a run's events until it has ended or `signal` aborts. EventSource cannot send a token, hence fetch.
 *
 * @param path of the stream, without a query.
 * @param told.event called with (sequence, envelope), in order, each once.
 * @param told.state called with "live", "waiting" (for the server) or "ended".
 * @param told.goesOn asked when the stream has ended: whether more is to come after all (a run that was retried).
 */
export async function follow(path, after, signal, told) {
  let last = after;
  let pause = 250;
  while (!signal.aborted) {
    try {
      const asked = `${path}?include_internal=true&after_sequence=${last}`;
      const response = await request(asked, { headers: headers({ Accept: "text/event-stream" }), signal });
      if (response.status === 200) {
        told.state("live");
        pause = 250;
        for await (const [id, envelope] of messages(response.body)) {
          if (id <= last) continue;
          last = id;
          told.event(id, envelope);
        }
      } else if (response.status !== 204) {
        const refused = parsed(await response.text());
        if (response.status < 500 && response.status !== 429) {
          throw new HttpError(refused?.detail ?? `The server answered ${response.status}.`, response.status);
        }
      }
      if ((response.status === 200 || response.status === 204) && !(await told.goesOn(last))) {
        told.state("ended");
        return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error.status >= 400 && error.status < 500) throw error;
      told.state("waiting");
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, 5000);
  }
}

async function* messages(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value.replaceAll("\r\n", "\n");
      for (let end = rest.indexOf("\n\n"); end >= 0; end = rest.indexOf("\n\n")) {
        const message = read(rest.slice(0, end));
        rest = rest.slice(end + 2);
        if (message) yield message;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function read(block) {
  let id = null;
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("id:")) id = Number(line.slice(3));
    else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  const envelope = data.length ? parsed(data.join("\n")) : null;
  return id === null || envelope === null ? null : [id, envelope];
}
