// A run's attempts as bars over time, one band for each worker process; and the same as a table.

import { fill, h, s, tracebackBox } from "./dom.js";
import { count, duration, short } from "./format.js";

const BAR = 18;
const GAP = 4;
const BAND = 12;
const AXIS = 22;
/** Bars that are drawn; the table has all. */
const DRAWN = 600;

/**
 * Outcome -> sign and words. The sign is in the bar, so that colour is not the only mark.
 *
 * @type {Record<string, [string, string]>}
 */
const OUTCOMES = {
  done: ["✓", "done"],
  running: ["▶", "running"],
  retrying: ["↻", "failed, retried"],
  failed: ["✕", "failed"],
  waiting: ["◔", "waiting for an event"],
  lost: ["⚡", "lost: its process died"],
  released: ["↩", "released"],
  hung: ["◷", "exceeded its time limit"],
};

/** The timeline; `show(run)` redraws it. */
export function timelineView() {
  const chart = h("div", { class: "chart" });
  const table = h("div", { class: "table-scroll" });
  const whole = h("details", { class: "as-table" }, h("summary", {}, "Show as a table"), table);
  const element = h("div", { class: "timeline" }, chart, whole);
  /** @type {Run | null} */
  let shown = null;
  const draw = () => {
    if (!shown || !element.isConnected || chart.clientWidth === 0) return;
    fill(chart, drawn(shown, chart.clientWidth));
    if (whole.open) fill(table, asTable(shown));
  };
  whole.addEventListener("toggle", draw);
  new ResizeObserver(draw).observe(chart);
  return {
    element,
    /** @param {Run} run */
    show: (run) => {
      shown = run;
      if (run.timeline.length === 0) {
        fill(chart, h("p", { class: "muted" }, "No step has run yet."));
        return;
      }
      draw();
    },
  };
}

/** @param {Run} run @param {number} width */
function drawn(run, width) {
  const bars = run.timeline.slice(-DRAWN);
  const begin = run.timeline_left_out ? Math.min(...bars.map((bar) => bar.started_at)) : run.created_at;
  const end = Math.max(begin + 1, run.ended_at ?? run.now, ...bars.map((bar) => bar.ended_at ?? run.now));
  const inner = Math.max(200, width - 2);
  const x = (/** @type {number} */ at) => (Math.max(0, at - begin) / (end - begin)) * (inner - 2) + 1;
  const bands = banded(bars, run.now);
  const parts = [];
  let y = AXIS + 4;
  for (const [process, lanes] of bands) {
    parts.push(s("text", { class: "worker", x: 2, y: y + 12 }, process));
    y += 18;
    lanes.forEach((lane, number) => {
      for (const bar of lane) {
        const top = y + number * (BAR + GAP);
        parts.push(drawnWait(bar, bars, x, top + BAR / 2, run), drawnBar(bar, x, top, run, inner));
      }
    });
    y += lanes.length * (BAR + GAP) + BAND;
    parts.push(s("line", { class: "rule", x1: 0, x2: inner, y1: y - BAND / 2, y2: y - BAND / 2 }));
  }
  const ticks = tickMarks(end - begin, inner).map((at) => [
    s("line", { class: "tick", x1: x(begin + at), x2: x(begin + at), y1: AXIS - 4, y2: y - BAND }),
    s("text", { class: "tick-label", x: Math.min(x(begin + at) + 3, inner - 40), y: 13 }, duration(at)),
  ]);
  const executions = count(run.timeline.length, "execution");
  const label = `Timeline: ${executions} on ${count(bands.length, "process", "processes")}, same data as the table below`;
  const svg = s(
    "svg",
    { role: "img", "aria-label": label, width: inner, height: y, viewBox: `0 0 ${inner} ${y}` },
    ticks,
    parts,
  );
  const left = run.timeline_left_out + run.timeline.length - bars.length;
  return [
    left ? h("p", { class: "muted" }, `${count(left, "earlier entry", "earlier entries")} not drawn.`) : null,
    svg,
    legend(bars),
  ];
}

/**
 * Bars by process, and within it in lanes where none overlap.
 *
 * @param {Bar[]} bars
 * @param {number} now
 * @returns {[string, Bar[][]][]}
 */
function banded(bars, now) {
  /** @type {Map<string, Bar[][]>} */
  const bands = new Map();
  for (const bar of bars) {
    const name = bar.process ? `${bar.worker}  ·  ${bar.process}` : bar.worker;
    const lanes = bands.get(name) ?? [];
    bands.set(name, lanes);
    const free = lanes.find((lane) => (lane.at(-1)?.ended_at ?? now) <= bar.started_at);
    if (free) free.push(bar);
    else lanes.push([bar]);
  }
  return [...bands];
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

/** @param {Bar} bar @param {(at: number) => number} x @param {number} y @param {Run} run @param {number} inner */
function drawnBar(bar, x, y, run, inner) {
  const width = Math.max(4, x(bar.ended_at ?? run.now) - x(bar.started_at));
  const left = Math.min(x(bar.started_at), inner - width - 1);
  const [sign, words] = OUTCOMES[bar.outcome] ?? ["·", bar.outcome];
  const text = `${sign} ${bar.step}${bar.attempt > 1 ? ` (${bar.attempt})` : ""}`;
  const took = duration((bar.ended_at ?? run.now) - bar.started_at);
  const title = [
    `${bar.step}, attempt ${bar.attempt}: ${words}`,
    `started after ${duration(bar.started_at - run.created_at)}, took ${took}`,
    bar.event ? `→ ${bar.event}` : "",
    bar.error ?? "",
  ];
  return s(
    "g",
    { class: `bar ${bar.outcome}` },
    s("title", {}, title.filter(Boolean).join("\n")),
    s("rect", { x: left, y, width, height: BAR, rx: 3 }),
    width > 16 ? s("text", { x: left + 5, y: y + 13 }, width > text.length * 6.7 + 8 ? text : sign) : null,
  );
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

/** @param {Bar[]} bars */
function legend(bars) {
  const found = Object.keys(OUTCOMES).filter((outcome) => bars.some((bar) => bar.outcome === outcome));
  return h(
    "ul",
    { class: "legend" },
    found.map((outcome) =>
      h(
        "li",
        {},
        h("span", { class: `swatch bar-${outcome}`, "aria-hidden": "true" }),
        `${OUTCOMES[outcome][0]} ${OUTCOMES[outcome][1]}`,
      ),
    ),
  );
}

/** @param {Run} run */
function asTable(run) {
  const headings = ["Step", "Attempt", "Worker", "Started after", "Duration", "Outcome"];
  const row = (/** @type {Bar} */ bar) => [
    bar.step,
    String(bar.attempt),
    bar.worker,
    duration(bar.started_at - run.created_at),
    duration((bar.ended_at ?? run.now) - bar.started_at),
    [
      (OUTCOMES[bar.outcome]?.[1] ?? bar.outcome) +
        (bar.event ? ` → ${short(bar.event)}` : "") +
        (bar.error ? `: ${bar.error}` : ""),
      bar.traceback ? tracebackBox(bar.traceback) : null,
    ],
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
      run.timeline.map((bar) =>
        h(
          "tr",
          {},
          row(bar).map((cell) => h("td", {}, cell)),
        ),
      ),
    ),
  );
}
