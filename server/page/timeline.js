// A run's attempts as bars over time, in bands by worker or by step; and the same as a table.

import { fill, h, s } from "./dom.js";
import { count, duration, workerName } from "./format.js";
import { patch } from "./patch.js";

const BAR = 18;
const GAP = 4;
const BAND = 10;
const LABEL = 20;
const AXIS = 24;
/** Bars that are drawn, and rows of the table; how many are left out is shown. */
const DRAWN = 1000;
/** Colours of steps, see `hue-…` in the stylesheet. */
const HUES = 8;
const MOST_ZOOM = 64;

/**
 * Outcome -> sign and words. The sign is in the bar, so that colour is not the only mark.
 *
 * @type {Record<string, [string, string]>}
 */
export const OUTCOMES = {
  done: ["✓", "done"],
  running: ["▶", "running"],
  retrying: ["↻", "failed, retried"],
  rescued: ["↷", "failed, handled by a @catch_error step"],
  failed: ["✕", "failed"],
  waiting: ["◔", "waiting for an event"],
  lost: ["⚡", "lost: its process died"],
  released: ["↩", "released"],
  hung: ["◷", "exceeded its time limit"],
  interrupted: ["⊘", "interrupted by the end of the run"],
};

/** @param {string} outcome @returns {[string, string]} */
export function outcomeWords(outcome) {
  return OUTCOMES[outcome] ?? ["·", outcome];
}

/**
 * The timeline; `show(run)` brings it up to date.
 *
 * @param {string[]} steps in the order of the graph, which decides their colours
 * @param {(workId: string) => void} open called for the bar that was clicked
 */
export function timelineView(steps, open) {
  const chart = h("div", { class: "chart", tabindex: "0", role: "group", "aria-label": "Timeline, scrolls sideways" });
  const labels = h("div", { class: "chart-labels", "aria-hidden": "true" });
  const notes = h("div", { class: "chart-notes" });
  const table = h("div", { class: "table-scroll" });
  const whole = h("details", { class: "as-table" }, h("summary", {}, "Show as a table"), table);
  const group = h(
    "select",
    { "aria-label": "Arrange the timeline", onchange: () => draw() },
    h("option", { value: "worker" }, "by worker"),
    h("option", { value: "step" }, "by step"),
  );
  const level = h("span", { class: "muted figure" });
  const zoomed = (/** @type {string} */ label, /** @type {string} */ sign, /** @type {() => number} */ next) =>
    h(
      "button",
      { type: "button", class: "quiet", title: label, onclick: () => zoomTo(next()) },
      sign.length > 1 ? sign : [h("span", { "aria-hidden": "true" }, sign), h("span", { class: "unseen" }, label)],
    );
  const element = h(
    "div",
    { class: "timeline" },
    h(
      "div",
      { class: "toolbar" },
      group,
      h(
        "span",
        { class: "zoom" },
        zoomed("Zoom out", "−", () => zoom / 2),
        level,
        zoomed("Zoom in", "+", () => zoom * 2),
        zoomed("Show everything", "Fit", () => 1),
      ),
    ),
    h("div", { class: "chart-frame" }, chart, labels),
    notes,
    whole,
  );
  let zoom = 1;
  /** @type {Run | null} */
  let shown = null;
  const draw = () => {
    level.textContent = `${zoom}×`;
    if (!shown || !element.isConnected || chart.clientWidth === 0) return;
    const kept = chart.scrollLeft;
    const drawing = drawn(shown, chart.clientWidth * zoom, group.value === "step", steps);
    fill(chart, drawing.svg);
    chart.scrollLeft = kept;
    patch(labels, drawing.labels);
    drawing.labels.forEach((_, at) => {
      const label = labels.children[at];
      if (label instanceof HTMLElement) label.style.top = `${drawing.tops[at]}px`;
    });
    patch(notes, drawing.notes);
    if (whole.open) patch(table, asTable(shown, open));
  };

  /** @param {number} next @param {number} [at] the share of the visible width that stays where it is */
  function zoomTo(next, at = 0.5) {
    const bounded = Math.min(MOST_ZOOM, Math.max(1, next));
    const place = (chart.scrollLeft + at * chart.clientWidth) / (chart.clientWidth * zoom);
    zoom = bounded;
    draw();
    chart.scrollLeft = place * chart.clientWidth * zoom - at * chart.clientWidth;
  }

  chart.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const box = chart.getBoundingClientRect();
      zoomTo(event.deltaY < 0 ? zoom * 2 : zoom / 2, (event.clientX - box.left) / box.width);
    },
    { passive: false },
  );
  chart.addEventListener("pointerdown", (event) => {
    if (zoom === 1 || event.button !== 0) return;
    const [from, scrolled] = [event.clientX, chart.scrollLeft];
    const move = (/** @type {PointerEvent} */ moved) => (chart.scrollLeft = scrolled - (moved.clientX - from));
    chart.addEventListener("pointermove", move);
    addEventListener("pointerup", () => chart.removeEventListener("pointermove", move), { once: true });
  });
  chart.addEventListener("click", (event) => {
    const bar = event.target instanceof Element ? event.target.closest("[data-work]") : null;
    if (bar) open(bar.getAttribute("data-work") ?? "");
  });
  whole.addEventListener("toggle", draw);
  new ResizeObserver(draw).observe(chart);
  return {
    element,
    /** @param {Run} run */
    show: (run) => {
      shown = run;
      element.classList.toggle("empty", run.timeline.length === 0);
      if (run.timeline.length === 0) {
        fill(chart, h("p", { class: "muted" }, "No step has run yet."));
        return;
      }
      draw();
    },
  };
}

/** @param {Run} run @param {number} width @param {boolean} isByStep @param {string[]} steps */
function drawn(run, width, isByStep, steps) {
  const bars = run.timeline.slice(-DRAWN);
  const begin = Math.min(...bars.map((bar) => bar.started_at));
  const end = Math.max(begin + 1, ...bars.map((bar) => bar.ended_at ?? run.now));
  const inner = Math.max(200, width - 2);
  const x = (/** @type {number} */ at) => (Math.max(0, at - begin) / (end - begin)) * (inner - 2) + 1;
  const bands = banded(bars, run.now, isByStep, steps);
  const parts = [];
  const labels = [];
  const tops = [];
  let y = AXIS;
  for (const [name, full, lanes] of bands) {
    labels.push(h("span", { class: "worker", title: full, "data-key": full }, name));
    tops.push(y + 1);
    y += LABEL;
    lanes.forEach((lane, number) => {
      for (const bar of lane) {
        const top = y + number * (BAR + GAP);
        parts.push(drawnWait(bar, bars, x, top + BAR / 2, run), drawnBar(bar, x, top, run, inner, begin, steps));
      }
    });
    y += lanes.length * (BAR + GAP) + BAND;
    parts.push(s("line", { class: "rule", x1: 0, x2: inner, y1: y - BAND / 2, y2: y - BAND / 2 }));
  }
  const ticks = tickMarks(end - begin, inner).map((at) => [
    s("line", { class: "tick", x1: x(begin + at), x2: x(begin + at), y1: AXIS - 6, y2: y - BAND }),
    s("text", { class: "tick-label", x: Math.min(x(begin + at) + 3, inner - 44), y: 13 }, at ? duration(at) : "0"),
  ]);
  const words = isByStep ? count(bands.length, "step") : count(bands.length, "process", "processes");
  const label = `Timeline: ${count(run.timeline.length, "execution")} on ${words}, same data as the table below`;
  const svg = s(
    "svg",
    { role: "img", "aria-label": label, width: inner, height: y, viewBox: `0 0 ${inner} ${y}` },
    ticks,
    parts,
  );
  const left = run.timeline_left_out + run.timeline.length - bars.length;
  const begun = begin - run.created_at;
  const notes = [
    left ? `${count(left, "earlier entry", "earlier entries")} not drawn.` : "",
    begun > 1000 && !left ? `The first step began ${duration(begun)} after the start.` : "",
  ].filter(Boolean);
  return {
    svg,
    labels,
    tops,
    notes: [notes.length ? h("p", { class: "muted" }, notes.join(" ")) : null, legend(bars, steps)],
  };
}

/**
 * Bars by process or by step, and within it in lanes where none overlap; a short and the full name of each.
 *
 * @param {Bar[]} bars
 * @param {number} now
 * @param {boolean} isByStep
 * @param {string[]} steps
 * @returns {[string, string, Bar[][]][]}
 */
function banded(bars, now, isByStep, steps) {
  /** @type {Map<string, Bar[][]>} */
  const bands = new Map();
  const processes = new Map(bars.map((bar) => [`${bar.worker} ${bar.process}`, bar.worker]));
  const isAlone = (/** @type {string} */ worker) =>
    [...processes.values()].filter((each) => each === worker).length < 2;
  const hosts = new Set(bars.map((bar) => bar.process.split(":")[0]));
  const nameOf = (/** @type {Bar} */ bar) => {
    const [host, pid] = bar.process.split(":");
    const name = workerName(bar.worker);
    const where = [isAlone(bar.worker) ? "" : `process ${pid}`, hosts.size > 1 && !name.includes(host) ? host : ""];
    return [name, ...where.filter(Boolean)].join(" · ");
  };
  /** @type {Map<string, string>} */
  const names = new Map();
  for (const bar of bars) {
    const key = isByStep ? bar.step : `${bar.worker} ${bar.process}`;
    names.set(key, isByStep ? bar.step : nameOf(bar));
    const lanes = bands.get(key) ?? [];
    bands.set(key, lanes);
    const free = lanes.find((lane) => (lane.at(-1)?.ended_at ?? now) <= bar.started_at);
    if (free) free.push(bar);
    else lanes.push([bar]);
  }
  const found = [...bands];
  if (isByStep) found.sort(([a], [b]) => steps.indexOf(a) - steps.indexOf(b));
  return found.map(([key, lanes]) => [names.get(key) ?? key, key, lanes]);
}

/**
 * A line from where a step began to wait to where it continued: nothing is executed meanwhile.
 *
 * @param {Bar} bar
 * @param {Bar[]} bars
 * @param {(at: number) => number} x
 * @param {number} y
 * @param {Run} run
 */
function drawnWait(bar, bars, x, y, run) {
  const since = bar.ended_at;
  if (bar.outcome !== "waiting" || since === null) return null;
  const next = bars.find((each) => each.work_id === bar.work_id && each.started_at >= since && each !== bar);
  const until = next?.started_at ?? run.ended_at ?? run.now;
  return s("line", { class: "wait", x1: x(since), x2: x(until), y1: y, y2: y });
}

/**
 * @param {Bar} bar
 * @param {(at: number) => number} x
 * @param {number} y
 * @param {Run} run
 * @param {number} inner
 * @param {number} begin
 * @param {string[]} steps
 */
function drawnBar(bar, x, y, run, inner, begin, steps) {
  const width = Math.max(4, x(bar.ended_at ?? run.now) - x(bar.started_at));
  const left = Math.min(x(bar.started_at), inner - width - 1);
  const [sign, words] = outcomeWords(bar.outcome);
  const text = `${sign} ${bar.step}${bar.attempt > 1 ? ` (${bar.attempt})` : ""}`;
  const took = duration((bar.ended_at ?? run.now) - bar.started_at);
  const title = [
    `${bar.step}, attempt ${bar.attempt}: ${words}`,
    `started at ${duration(bar.started_at - begin)}, took ${took}`,
    bar.event ? `→ ${bar.event}` : "",
    bar.error ?? "",
    "Click for its events, attempts and writes",
  ];
  return s(
    "g",
    { class: `bar ${bar.outcome} ${hueOf(bar.step, steps)}`, "data-work": bar.work_id },
    s("title", {}, title.filter(Boolean).join("\n")),
    s("rect", { x: left, y, width, height: BAR, rx: 3 }),
    width > 16 ? s("text", { x: left + 5, y: y + 13 }, width > text.length * 6.7 + 8 ? text : sign) : null,
  );
}

/** @param {string} step @param {string[]} steps */
export function hueOf(step, steps) {
  return `hue-${Math.max(0, steps.indexOf(step)) % HUES}`;
}

/** Round instants, at least 90 pixels apart. @param {number} span @param {number} width */
function tickMarks(span, width) {
  const wanted = span / Math.max(1, Math.floor(width / 90));
  const power = 10 ** Math.floor(Math.log10(Math.max(1, wanted)));
  const minutes = [60_000, 120_000, 300_000, 600_000, 1_800_000, 3_600_000, 7_200_000, 21_600_000, 86_400_000];
  const step =
    wanted > 30_000
      ? (minutes.find((each) => each >= wanted) ?? Math.ceil(wanted / 86_400_000) * 86_400_000)
      : ([1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= wanted) ?? wanted);
  const marks = [];
  for (let at = 0; at <= span; at += step) marks.push(at);
  return marks;
}

/** @param {Bar[]} bars @param {string[]} steps */
function legend(bars, steps) {
  const found = Object.keys(OUTCOMES).filter((outcome) => bars.some((bar) => bar.outcome === outcome));
  const executed = steps.filter((step) => bars.some((bar) => bar.step === step));
  return h(
    "ul",
    { class: "legend" },
    executed.map((step) =>
      h("li", {}, h("span", { class: `swatch bar-swatch ${hueOf(step, steps)}`, "aria-hidden": "true" }), step),
    ),
    found.map((outcome) => h("li", {}, `${OUTCOMES[outcome][0]} ${OUTCOMES[outcome][1]}`)),
  );
}

/** @param {Run} run @param {(workId: string) => void} open */
function asTable(run, open) {
  const headings = ["Step", "Attempt", "Worker", "Started after", "Duration", "Outcome"];
  const row = (/** @type {Bar} */ bar) => [
    h("button", { type: "button", class: "link", "data-row": true, onclick: () => open(bar.work_id) }, bar.step),
    String(bar.attempt),
    workerName(bar.worker),
    duration(bar.started_at - run.created_at),
    duration((bar.ended_at ?? run.now) - bar.started_at),
    outcomeWords(bar.outcome)[1] + (bar.event ? ` → ${bar.event}` : "") + (bar.error ? `: ${bar.error}` : ""),
  ];
  return h(
    "table",
    {},
    h("caption", { class: "unseen" }, "Executions"),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        headings.map((each) => h("th", { scope: "col" }, each)),
      ),
    ),
    h(
      "tbody",
      {},
      run.timeline.slice(-DRAWN).map((bar) =>
        h(
          "tr",
          { "data-key": `${bar.work_id} ${bar.attempt} ${bar.started_at}` },
          row(bar).map((cell) => h("td", {}, cell)),
        ),
      ),
    ),
  );
}
