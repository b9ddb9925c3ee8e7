// A conversation with a workflow that takes a text and streams its answer: each turn is a run of one session.

import { announce, errorBox, fill, h, put } from "./dom.js";
import { fieldsOf, isInternal } from "./event_list.js";
import { badge } from "./format.js";
import { follow, get, post } from "./http.js";
import { gist, jsonView } from "./json_view.js";

/** Turns of a conversation that are loaded. */
const TURNS = 30;
/** Names of the field that holds a piece of an answer. */
const PIECES = ["delta", "token", "text", "content", "response", "message", "chunk"];

/** The only text that a start event needs; null if it is no chat. @param {Schema} schema */
export function textField(schema) {
  const properties = Object.entries(schema?.properties ?? {});
  const required = new Set(schema?.required ?? []);
  const texts = properties.filter(([, each]) => each.type === "string" && !each.format && !each.enum);
  if ([...required].some((name) => !texts.some(([each]) => each === name))) return null;
  const needed = texts.filter(([name]) => required.has(name));
  return needed.length === 1 ? needed[0][0] : null;
}

/** The piece of text that an event carries. @param {Envelope} envelope */
function pieceOf(envelope) {
  if (isInternal(envelope) || (envelope.types ?? []).includes("StopEvent") || envelope.type === "StopEvent") return "";
  const fields = fieldsOf(envelope);
  const name = PIECES.find((each) => typeof fields[each] === "string");
  return name ? fields[name] : "";
}

/**
 * @param {string} workflow the name it is served under
 * @param {URLSearchParams} query `session` names the conversation
 * @param {AbortSignal} signal
 */
export function chatView(workflow, query, signal) {
  const session = query.get("session") || `chat-${Math.random().toString(36).slice(2, 10)}`;
  if (!query.get("session")) history.replaceState(null, "", address(workflow, session));
  const path = `sessions/${encodeURIComponent(session)}`;
  const log = h("div", { class: "chat-log", role: "log", "aria-label": "Conversation" });
  const input = h("textarea", { id: "chat-input", rows: "2", placeholder: "Write a message", "aria-label": "Message" });
  const button = h("button", { type: "submit", class: "primary" }, "Send");
  const problem = h("p", { class: "field-error", role: "alert" });
  const form = h(
    "form",
    { class: "chat-form", onsubmit: (event) => (event.preventDefault(), say(input.value)) },
    input,
    button,
  );
  /** @type {string | null} */
  let field = null;
  let startType = "";
  /** Settles when it is known what a message is sent as. @type {Promise<void>} */
  let loaded;
  /** @type {{run: string, text: string, element: HTMLElement}[]} */
  const turns = [];

  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    say(input.value);
  });

  /** @param {string} text */
  async function say(text) {
    if (!text.trim() || button.disabled) return;
    problem.textContent = "";
    button.disabled = true;
    await loaded; // it may have been written before
    try {
      if (field === null) return;
      const event = { type: startType, value: { [field]: text } };
      const body = { start_event: event, session_id: session, when_busy: "interrupt" };
      const run = await post(`workflows/${encodeURIComponent(workflow)}/run-nowait`, body);
      input.value = "";
      listen(turn(run.run_id, text), run.run_id);
    } catch (error) {
      problem.textContent = error.message;
    } finally {
      button.disabled = false;
      input.focus();
    }
  }

  /** A turn's place in the conversation. @param {string} run @param {string} text */
  function turn(run, text) {
    const answer = h("div", { class: "answer-text" });
    const end = h("div", { class: "answer-end" });
    const again = h("button", { type: "button", class: "quiet", onclick: () => regenerate(run, text) }, "Regenerate");
    const element = h(
      "div",
      { class: "turn" },
      h("p", { class: "said" }, text),
      h(
        "div",
        { class: "answer" },
        answer,
        end,
        h("p", { class: "turn-actions" }, again, h("a", { href: `#/runs/${encodeURIComponent(run)}` }, "Run")),
      ),
    );
    turns.push({ run, text, element });
    log.append(element);
    element.scrollIntoView({ block: "end" });
    return { answer, end, element };
  }

  /** Show the answer as it comes. @param {ReturnType<typeof turn>} place @param {string} run */
  async function listen({ answer, end, element }, run) {
    const data = `console/runs/${encodeURIComponent(run)}`;
    let said = "";
    try {
      await follow(`${data}/events`, -1, signal, {
        event: (_, envelope) => {
          const piece = pieceOf(envelope);
          if (!piece) return;
          said += piece;
          put(answer, piece);
          if (innerHeight + scrollY > document.body.scrollHeight - 160) element.scrollIntoView({ block: "end" });
        },
        state: () => {},
        continues: async () => (await get(data, signal)).status === "running",
      });
      const ended = await get(data, signal);
      if (ended.status !== "completed") put(end, badge(ended.status), ended.failure ? ` ${ended.failure.error}` : "");
      else if (!said && ended.result) {
        const { value } = ended.result;
        put(answer, typeof value === "string" ? value : jsonView(value, 1));
      }
      announce(`Answer: ${gist(said, 200)}`);
    } catch (error) {
      if (!signal.aborted) put(end, h("span", { class: "field-error" }, error.message));
    }
  }

  /** Answer again in a fork of the conversation as it was before; this one is kept. @param {string} run @param {string} text */
  async function regenerate(run, text) {
    problem.textContent = "";
    try {
      const { versions } = await get(`${path}/versions`, signal);
      const place = versions.findIndex((/** @type {any} */ each) => each.after === run);
      const before = place >= 0 ? versions[place + 1] : null;
      const name = `${session.replace(/-again-\w+$/, "")}-again-${Math.random().toString(36).slice(2, 6)}`;
      if (before) await post(`${path}/fork`, { name, at: before.version });
      sessionStorage.setItem(`umbel.say.${name}`, text);
      location.hash = address(workflow, name);
    } catch (error) {
      problem.textContent = error.message;
    }
  }

  function begin() {
    loaded = load();
  }

  async function load() {
    try {
      const about = await get(`console/workflows/${encodeURIComponent(workflow)}`, signal);
      field = textField(about.start.schema);
      startType = about.start.type;
      if (field === null) {
        fill(
          log,
          h("p", { class: "muted" }, "This workflow does not take a text: its start event needs other fields."),
        );
        form.hidden = true;
        return;
      }
      await loadTurns();
    } catch (error) {
      if (!signal.aborted) fill(log, errorBox(error, begin));
      return;
    }
    const waiting = sessionStorage.getItem(`umbel.say.${session}`);
    sessionStorage.removeItem(`umbel.say.${session}`);
    if (waiting) say(waiting);
    input.focus();
  }

  async function loadTurns() {
    /** @type {{run_id: string}[]} */
    let known;
    try {
      known = (await get(`${path}/runs?limit=${TURNS}`, signal)).runs;
    } catch (error) {
      if (error.status === 404) return; // a new conversation
      throw error;
    }
    for (const { run_id: run } of known.reverse()) {
      const { began_with: began } = await get(`console/runs/${encodeURIComponent(run)}`, signal);
      listen(turn(run, String(began?.value?.[field ?? ""] ?? "")), run);
    }
  }

  begin();
  const element = h(
    "div",
    { class: "view chat" },
    h("p", { class: "crumbs" }, h("a", { href: `#/workflows/${encodeURIComponent(workflow)}` }, workflow), " / "),
    h("h1", { tabindex: "-1" }, "Chat"),
    h(
      "p",
      { class: "muted" },
      "Session ",
      h("a", { href: `#/sessions/${encodeURIComponent(session)}` }, session),
      " · ",
      h("a", { href: `#/chat/${encodeURIComponent(workflow)}` }, "New conversation"),
    ),
    log,
    problem,
    form,
  );
  return { element, title: `Chat with ${workflow}` };
}

/** @param {string} workflow @param {string} session */
function address(workflow, session) {
  return `#/chat/${encodeURIComponent(workflow)}?session=${encodeURIComponent(session)}`;
}
