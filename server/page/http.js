// HTTP requests with the token, and event streams that resume where they broke off.

const TOKEN = "umbel.token";

export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  /** @param {string} value */
  set: (value) => (value ? sessionStorage.setItem(TOKEN, value) : sessionStorage.removeItem(TOKEN)),
};

/** A failed request. `status` is 0 if the server did not answer. */
export class HttpError extends Error {
  /** @param {string} message @param {number} status */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** @type {Set<() => void>} */
const unauthorized = new Set();

/** Call the listener whenever the server answers 401. @param {() => void} listener */
export function onUnauthorized(listener) {
  unauthorized.add(listener);
}

/** @type {Set<(isReachable: boolean) => void>} */
const reachability = new Set();

/**
 * Call the listener after each request with whether the server answered.
 *
 * @param {(isReachable: boolean) => void} listener
 */
export function onReachability(listener) {
  reachability.add(listener);
}

/** @param {Record<string, string>} more */
function headers(more) {
  const current = token.get();
  return current ? { ...more, Authorization: `Bearer ${current}` } : more;
}

/** @param {string} path @param {RequestInit} options */
async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "same-origin", ...options });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    for (const listener of reachability) listener(false);
    const isSilent = error instanceof DOMException && error.name === "TimeoutError";
    throw new HttpError(isSilent ? "The server does not answer." : "Server unreachable.", 0);
  }
  for (const listener of reachability) listener(true);
  if (response.status === 401) for (const listener of unauthorized) listener();
  return response;
}

/** How long a server that accepts a request and then stays silent is waited for. */
const PATIENCE_MS = 20_000;

/** GET JSON. @param {string} path @param {AbortSignal} [signal] */
export async function get(path, signal) {
  return answer(await reading(path, signal));
}

/**
 * GET JSON, and the query of the next page, null if there is none.
 *
 * @param {string} path
 * @param {AbortSignal} [signal]
 * @returns {Promise<[any, string | null]>}
 */
export async function getPage(path, signal) {
  const response = await reading(path, signal);
  const next = /<[^>?]*\?([^>]*)>; rel="next"/.exec(response.headers.get("link") ?? "");
  return [await answer(response), next ? next[1] : null];
}

/** @param {string} path @param {AbortSignal} [signal] */
function reading(path, signal) {
  const patience = AbortSignal.timeout(PATIENCE_MS);
  const either = signal ? AbortSignal.any([signal, patience]) : patience;
  return request(path, { headers: headers({ Accept: "application/json" }), signal: either });
}

/** POST JSON. @param {string} path @param {any} [body] */
export async function post(path, body) {
  const types = headers({ Accept: "application/json", "Content-Type": "application/json" });
  const signal = AbortSignal.timeout(PATIENCE_MS);
  return answer(await request(path, { method: "POST", headers: types, body: JSON.stringify(body ?? {}), signal }));
}

/** @param {Response} response */
async function answer(response) {
  const text = await response.text();
  const data = text ? parsed(text) : null;
  if (!response.ok) {
    const detail = typeof data?.detail === "string" ? data.detail : `The server answered ${response.status}.`;
    throw new HttpError(response.status === 401 ? "Authentication required." : detail, response.status);
  }
  return data;
}

/**
 * JSON, with whole numbers beyond 2^53 as BigInt: they would be rounded otherwise. null if it is invalid.
 *
 * @param {string} text
 */
export function parsed(text) {
  try {
    return JSON.parse(text, (_, value, context) =>
      typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? "")
        ? BigInt(context?.source ?? "")
        : value,
    );
  } catch {
    return null;
  }
}

/**
 * @typedef {object} Follower
 * @property {(sequence: number, envelope: Envelope, origin: Origin) => void} event called for each event once, in order
 * @property {(state: "live" | "waiting" | "ended") => void} state called when the connection changes
 * @property {() => Promise<boolean>} continues called when the stream has ended: whether more events follow after all,
 *   as of a run that was retried
 */

/**
 * Follow a run's events until it has ended or `signal` aborts. EventSource cannot send a token, hence fetch.
 *
 * @param {string} path of the stream, without a query
 * @param {number} after the sequence number after which to begin
 * @param {AbortSignal} signal
 * @param {Follower} follower
 * @throws {HttpError} the server refused the request
 */
export async function follow(path, after, signal, follower) {
  let last = after;
  let pause = 250;
  while (!signal.aborted) {
    try {
      const address = `${path}?include_internal=true&after_sequence=${last}`;
      const response = await request(address, { headers: headers({ Accept: "text/event-stream" }), signal });
      if (response.status === 200) {
        follower.state("live");
        pause = 250;
        for await (const [id, envelope, origin] of messages(response)) {
          if (id <= last) continue;
          last = id;
          follower.event(id, envelope, origin);
        }
      } else if (response.status !== 204) {
        const refused = parsed(await response.text());
        if (response.status < 500 && response.status !== 429) {
          throw new HttpError(refused?.detail ?? `The server answered ${response.status}.`, response.status);
        }
      }
      if ((response.status === 200 || response.status === 204) && !(await follower.continues())) {
        follower.state("ended");
        return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof HttpError && error.status >= 400 && error.status < 500) throw error;
      follower.state("waiting");
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, 5000);
  }
}

/**
 * Id, envelope and origin of each of a stream of server-sent events.
 *
 * @param {Response} response
 * @returns {AsyncGenerator<[number, Envelope, Origin]>}
 */
async function* messages(response) {
  if (response.body === null) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
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

/** @param {string} block @returns {[number, Envelope, Origin] | null} */
function read(block) {
  let origin = "";
  /** @type {number | null} */
  let id = null;
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("id:")) id = Number(line.slice(3));
    else if (line.startsWith("origin:")) origin = line.slice(7);
    else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  const envelope = data.length ? parsed(data.join("\n")) : null;
  return id === null || envelope === null ? null : [id, envelope, parsed(origin) ?? { step: "", attempt: 0, at: 0 }];
}
