// A run's events as they arrive: filtered, each with its time, its step and its JSON.

import { fill, h, put } from "./dom.js";
import { clock, count, instant } from "./format.js";
import { gist, jsonView } from "./json_view.js";

/** Events that are kept; how many are left out is shown. */
const KEPT = 25_000;
/** More rows than this are filled only when they come near the visible part. */
const FILLED = 200;
/** Rows that are added between two frames. */
const ADDED_AT_ONCE = 1000;

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

/** @typedef {{sequence: number, envelope: Envelope, origin: Origin, row: HTMLElement | null}} ListedEvent */

/** The list; `add(sequence, envelope, origin)` for each event, in order. */
export function eventList() {
  /** @type {ListedEvent[]} */
  const events = [];
  let dropped = 0;
  let isDue = false;
  const search = h("input", {
    type: "search",
    placeholder: "filter by type, step or content",
    "aria-label": "Filter events",
    oninput: () => redraw(),
  });
  const internal = h("input", { type: "checkbox", onchange: () => redraw() });
  const summary = h("span", { class: "muted", role: "status" });
  const rows = h("ol", { class: "events", tabindex: "0", "aria-label": "Events" });
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
    rows,
  );
  /** @type {WeakMap<Element, ListedEvent>} */
  const eventOf = new WeakMap();
  const near = new IntersectionObserver(
    (seen) => {
      for (const { target, isIntersecting } of seen)
        if (isIntersecting) {
          near.unobserve(target);
          const event = eventOf.get(target);
          if (event) fillRow(/** @type {HTMLElement} */ (target), event);
        }
    },
    { root: rows, rootMargin: "800px 0px" },
  );

  /** @param {ListedEvent} event */
  function fits({ envelope, origin }) {
    if (!internal.checked && isInternal(envelope)) return false;
    const wanted = search.value.trim().toLowerCase();
    return (
      !wanted || `${envelope.type} ${origin.step} ${gist(fieldsOf(envelope), 4000)}`.toLowerCase().includes(wanted)
    );
  }

  let fitting = 0; // among those that are kept
  let drawn = 0; // events that have been looked at

  /** Draw everything: the filter has changed. */
  function redraw() {
    near.disconnect();
    fill(rows);
    fitting = 0;
    drawn = 0;
    draw();
  }

  /** Draw only what has arrived since, a bounded number of rows per frame. */
  function draw() {
    isDue = false;
    const isBelow = rows.scrollHeight - rows.scrollTop - rows.clientHeight < 40;
    const found = [];
    for (; drawn < events.length && found.length < ADDED_AT_ONCE; drawn += 1)
      if (fits(events[drawn])) found.push(row(events[drawn]));
    fitting += found.length;
    put(rows, found);
    while (rows.childElementCount > KEPT) rows.firstElementChild?.remove();
    summarize();
    if (isBelow) rows.scrollTop = rows.scrollHeight;
    if (drawn < events.length) later();
  }

  function later() {
    if (!isDue) requestAnimationFrame(draw);
    isDue = true;
  }

  function summarize() {
    const left = dropped ? `, ${dropped.toLocaleString("en")} older events not loaded` : "";
    summary.textContent = events.length
      ? `${fitting.toLocaleString("en")} of ${count(events.length, "event")}${left}`
      : "No events yet.";
  }

  /** A row is made once, so that what the user has opened stays open. @param {ListedEvent} event */
  function row(event) {
    if (event.row) {
      if (event.row.childElementCount === 0) near.observe(event.row);
      return event.row;
    }
    event.row = h("li");
    eventOf.set(event.row, event);
    if (rows.childElementCount < FILLED) fillRow(event.row, event);
    else near.observe(event.row);
    return event.row;
  }

  redraw();
  return {
    element,
    /** @param {number} sequence @param {Envelope} envelope @param {Origin} origin */
    add(sequence, envelope, origin) {
      events.push({ sequence, envelope, origin, row: null });
      if (events.length > KEPT) {
        const oldest = events.shift();
        if (oldest && drawn > 0 && fits(oldest)) fitting -= 1;
        oldest?.row?.remove();
        drawn = Math.max(0, drawn - 1);
        dropped += 1;
      }
      later();
    },
    /** Show only events of one step. @param {string} step */
    showStep(step) {
      search.value = step;
      redraw();
    },
  };
}

/** @param {HTMLElement} place @param {ListedEvent} event */
function fillRow(place, { sequence, envelope, origin }) {
  const details = h(
    "details",
    {},
    h(
      "summary",
      {},
      h("span", { class: "sequence", title: `number ${sequence}` }, `#${sequence}`),
      origin.at ? h("time", { class: "event-at", title: instant(origin.at) }, clock(origin.at)) : h("span"),
      h("span", { class: "event-step" }, origin.step),
      h("span", { class: `event-type ${kind(envelope)}` }, envelope.type),
      h("span", { class: "gist" }, line(envelope)),
    ),
  );
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(jsonView(envelope, 3));
  });
  fill(place, details);
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
    const given = String(fields.output_event_name ?? "").replace(/^<class '(.*)'>$/, "$1");
    return [state, fields.input_event_name, given ? `→ ${given}` : ""].filter(Boolean).join("  ");
  }
  const failed = fields.exception;
  if (failed?.exception_type)
    return `${String(failed.exception_type).replace(/^builtins\./, "")}: ${failed.exception_message ?? ""}`;
  const entries = Object.entries(fields);
  if (entries.length === 1 && typeof entries[0][1] === "string") return gist(entries[0][1]);
  return entries.map(([name, value]) => `${name}: ${gist(value, 80)}`).join(", ");
}
