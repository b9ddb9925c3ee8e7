// A run's events as they arrive: filtered, each with its time, its step and its JSON.

import { fill, h, put } from "./dom.js";
import { clock, count, instant } from "./format.js";
import { gist, jsonView } from "./json_view.js";

/** Events that are kept; how many are left out is shown. */
const KEPT = 25_000;
/** Rows are laid out in blocks of this many: only blocks near the visible part have their rows. */
const BLOCK = 100;
/** Height of a closed row; a block that never had rows takes the room of its rows. */
const ROW_PIXELS = 34;
/** How long events are looked at between two frames; the clock is read after so many. */
const SLICE_MS = 8;
/** Between two drawings of events that have just arrived: laying the list out costs more than its new rows. */
const PAUSE_MS = 100;
const AT_ONCE = 50;

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

/**
 * @typedef {{sequence: number, envelope: Envelope, origin: Origin, isInternal: boolean, text: string,
 *   row: HTMLElement | null}} ListedEvent
 */

/** @typedef {{element: HTMLElement, events: ListedEvent[], isFilled: boolean}} Block */

/** The list; `add(sequence, envelope, origin)` for each event, in order. */
export function eventList() {
  /** @type {ListedEvent[]} */
  let events = [];
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
  const rows = h("div", { class: "events", tabindex: "0", role: "group", "aria-label": "Events" });
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
  /** @type {Block[]} */
  let blocks = [];
  /** @type {WeakMap<Element, Block>} */
  const blockOf = new WeakMap();
  const near = new IntersectionObserver(
    (seen) => {
      for (const { target, isIntersecting } of seen) {
        const block = blockOf.get(target);
        if (!block) continue;
        if (isIntersecting) fillBlock(block);
        else if (rows.clientHeight) emptyBlock(block);
      }
    },
    { root: rows, rootMargin: "2000px 0px" },
  );

  /** @param {ListedEvent} event */
  function fits(event) {
    if (event.isInternal && !internal.checked) return false;
    const wanted = search.value.trim().toLowerCase();
    if (!wanted) return true;
    event.text ||= `${event.envelope.type} ${event.origin.step} ${gist(fieldsOf(event.envelope), 4000)}`.toLowerCase();
    return event.text.includes(wanted);
  }

  let fitting = 0; // among those that are kept
  let looked = 0; // how many events have been looked at
  let drawnAt = -PAUSE_MS;

  /** Draw everything: the filter has changed. */
  function redraw() {
    near.disconnect();
    blocks = [];
    fill(rows);
    fitting = 0;
    looked = 0;
    draw();
  }

  /** Draw only what has arrived since, a bounded part per frame. */
  function draw() {
    isDue = false;
    const isBelow = rows.scrollHeight - rows.scrollTop - rows.clientHeight < 40;
    const begin = performance.now();
    while (looked < events.length && performance.now() - begin < SLICE_MS) {
      const until = Math.min(events.length, looked + AT_ONCE);
      for (; looked < until; looked += 1) if (fits(events[looked])) show(events[looked]);
    }
    const last = blocks.at(-1);
    if (last && !last.isFilled) reserve(last);
    summarize();
    if (isBelow) rows.scrollTop = rows.scrollHeight;
    drawnAt = performance.now();
    if (looked < events.length) later(0);
  }

  /** Draw in a frame, this long after the last one at the earliest. @param {number} pause */
  function later(pause) {
    if (isDue) return;
    isDue = true;
    const wait = drawnAt + pause - performance.now();
    if (wait > 0) setTimeout(() => requestAnimationFrame(draw), wait);
    else requestAnimationFrame(draw);
  }

  function summarize() {
    const left = dropped ? `, ${dropped.toLocaleString("en")} older events not loaded` : "";
    summary.textContent = events.length
      ? `${fitting.toLocaleString("en")} of ${count(events.length, "event")}${left}`
      : "No events yet.";
  }

  /** @param {ListedEvent} event */
  function show(event) {
    fitting += 1;
    let block = blocks.at(-1);
    if (!block || block.events.length >= BLOCK) {
      const made = { element: h("ol", { class: "event-block" }), events: [], isFilled: blocks.length === 0 };
      if (block && !block.isFilled) reserve(block);
      block = made;
      blocks.push(made);
      blockOf.set(made.element, made);
      rows.append(made.element);
      near.observe(made.element);
    }
    block.events.push(event);
    if (block.isFilled) block.element.append(row(event));
  }

  /** @param {Block} block */
  function reserve(block) {
    block.element.style.minHeight = `${block.events.length * ROW_PIXELS}px`;
  }

  /** @param {Block} block */
  function fillBlock(block) {
    if (block.isFilled) return;
    block.isFilled = true;
    block.element.style.minHeight = "";
    put(block.element, block.events.map(row));
  }

  /** Take the rows of a block that is far away; what the user has opened is kept. @param {Block} block */
  function emptyBlock(block) {
    if (!block.isFilled) return;
    block.isFilled = false;
    block.element.style.minHeight = `${Math.max(block.element.offsetHeight, block.events.length * ROW_PIXELS)}px`;
    fill(block.element);
    for (const event of block.events) if (!event.row?.querySelector("details[open]")) event.row = null;
  }

  redraw();
  return {
    element,
    /** @param {number} sequence @param {Envelope} envelope @param {Origin} origin */
    add(sequence, envelope, origin) {
      events.push({ sequence, envelope, origin, isInternal: isInternal(envelope), text: "", row: null });
      if (events.length > KEPT * 1.1) drop(events.length - KEPT);
      later(PAUSE_MS);
    },
  };

  /** Forget the oldest events, and blocks that have no others. @param {number} number */
  function drop(number) {
    events = events.slice(number);
    dropped += number;
    looked = Math.max(0, looked - number);
    const oldest = events[0].sequence;
    while (blocks.length > 1 && (blocks[0].events.at(-1)?.sequence ?? 0) < oldest) {
      const [block] = blocks.splice(0, 1);
      near.unobserve(block.element);
      block.element.remove();
      fitting -= block.events.length;
    }
  }
}

/** A row is made once, so that what the user has opened stays open. @param {ListedEvent} event */
function row(event) {
  event.row ??= madeRow(event);
  return event.row;
}

/** @param {ListedEvent} event */
function madeRow({ sequence, envelope, origin }) {
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
