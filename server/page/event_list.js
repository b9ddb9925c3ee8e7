// A run's events as they arrive: filtered, each with its JSON.

import { fill, h, put } from "./dom.js";
import { count } from "./format.js";
import { gist, jsonView } from "./json_view.js";

/** Events that are kept, and rows that are drawn; how many are left out is shown. */
const KEPT = 5000;
const DRAWN = 300;

/** Whether it is one of umbel's own events: a change of a step's state, idleness. @param {Envelope} envelope */
export function isInternal(envelope) {
  return (
    ["StepStateChanged", "WorkflowIdleEvent", "UnhandledEvent", "InternalDispatchEvent"].includes(envelope.type) ||
    (envelope.types ?? []).includes("InternalDispatchEvent")
  );
}

/** An event's fields, dynamic ones among the declared ones. @param {Envelope} envelope */
export function fieldsOf(envelope) {
  const { _data: dynamic, ...declared } = envelope.value ?? {};
  return { ...declared, ...(dynamic ?? {}) };
}

/** @typedef {{sequence: number, envelope: Envelope, text: string, row: HTMLElement | null}} ListedEvent */

/** The list; `add(sequence, envelope)` for each event, in order. */
export function eventList() {
  /** @type {ListedEvent[]} */
  const events = [];
  let dropped = 0;
  let limit = DRAWN;
  let isDue = false;
  const search = h("input", {
    type: "search",
    placeholder: "filter by type or content",
    "aria-label": "Filter events",
    oninput: () => redraw(),
  });
  const internal = h("input", { type: "checkbox", onchange: () => redraw() });
  const summary = h("span", { class: "muted", role: "status" });
  const rows = h("ol", { class: "events" });
  const earlier = h("button", {
    type: "button",
    class: "quiet",
    hidden: true,
    onclick: () => ((limit *= 4), redraw()),
  });
  const element = h(
    "div",
    { class: "event-list" },
    h(
      "div",
      { class: "toolbar" },
      search,
      h("label", { class: "inline-label" }, internal, " internal events"),
      summary,
    ),
    earlier,
    rows,
  );

  /** @param {ListedEvent} event */
  function fits({ envelope, text }) {
    if (!internal.checked && isInternal(envelope)) return false;
    const wanted = search.value.trim().toLowerCase();
    return !wanted || text.includes(wanted);
  }

  let fitting = 0; // among those that are kept
  let drawn = 0; // events that have been looked at

  /** Draw everything: the filter has changed, or more rows are wanted. */
  function redraw() {
    const found = events.filter(fits);
    fitting = found.length;
    drawn = events.length;
    fill(rows, found.slice(-limit).map(row));
    summarize();
  }

  /** Draw only what has arrived since. */
  function draw() {
    isDue = false;
    const isBelow = rows.scrollHeight - rows.scrollTop - rows.clientHeight < 40;
    const found = events.slice(drawn).filter(fits);
    drawn = events.length;
    fitting += found.length;
    put(rows, found.slice(-limit).map(row));
    while (rows.childElementCount > limit) rows.firstElementChild?.remove();
    summarize();
    if (isBelow) rows.scrollTop = rows.scrollHeight;
  }

  function summarize() {
    const left = dropped ? `, ${dropped.toLocaleString("en")} older events not loaded` : "";
    summary.textContent = events.length
      ? `${fitting.toLocaleString("en")} of ${count(events.length, "event")}${left}`
      : "No events yet.";
    const above = fitting - rows.childElementCount;
    earlier.hidden = above <= 0;
    earlier.textContent = `${count(above, "earlier event")} …`;
  }

  redraw();
  return {
    element,
    /** @param {number} sequence @param {Envelope} envelope */
    add(sequence, envelope) {
      const text = `${envelope.type} ${gist(fieldsOf(envelope), 4000)}`.toLowerCase();
      events.push({ sequence, envelope, text, row: null });
      if (events.length > KEPT) {
        const oldest = events.shift();
        if (oldest && fits(oldest)) fitting -= drawn > 0 ? 1 : 0;
        drawn = Math.max(0, drawn - 1);
        dropped += 1;
      }
      if (!isDue) {
        isDue = true;
        requestAnimationFrame(draw);
      }
    },
  };
}

/** A row is made once, so that what the user has opened stays open. @param {ListedEvent} event */
function row(event) {
  event.row ??= made(event);
  return event.row;
}

/** @param {ListedEvent} event */
function made({ sequence, envelope }) {
  const details = h(
    "details",
    {},
    h(
      "summary",
      {},
      h("span", { class: "sequence" }, `#${sequence}`),
      h("span", { class: `event-type ${kind(envelope)}` }, envelope.type),
      h("span", { class: "gist" }, line(envelope)),
    ),
  );
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(jsonView(envelope, 3));
  });
  return h("li", {}, details);
}

/** @param {Envelope} envelope */
function kind(envelope) {
  const types = [envelope.type, ...(envelope.types ?? [])];
  if (types.includes("WorkflowFailedEvent") || types.includes("WorkflowTimedOutEvent")) return "failure";
  if (types.includes("StopEvent")) return "stop";
  if (types.includes("InputRequiredEvent")) return "question";
  return isInternal(envelope) ? "internal" : "plain";
}

/** @param {Envelope} envelope */
function line(envelope) {
  const fields = fieldsOf(envelope);
  if (envelope.type === "StepStateChanged") {
    const state = String(fields.step_state ?? "").replace("not_running", "ended");
    return [
      fields.name,
      state,
      fields.input_event_name,
      fields.output_event_name ? `→ ${fields.output_event_name}` : "",
    ]
      .filter(Boolean)
      .join("  ");
  }
  const entries = Object.entries(fields);
  if (entries.length === 1 && typeof entries[0][1] === "string") return gist(entries[0][1]);
  return entries.map(([name, value]) => `${name}: ${gist(value, 80)}`).join(", ");
}
