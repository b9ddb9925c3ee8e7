// A workflow's graph as SVG. The server has laid it out; with a run, each step says what it does right now.

import { freshId, h, s } from "./dom.js";
import { count } from "./format.js";

const MARGIN = 14;
/** Boxes with round ends. */
const FLAT = new Set(["event", "start", "stop", "child", "omitted"]);
/** Boxes of work: with a second line, and opened with a click. */
const WORK = new Set(["step", "done", "failed", "waiting", "pending"]);

/** What a box is called in the legend. @type {Record<string, string>} */
const LOOKS = {
  step: "step",
  event: "event",
  start: "start",
  stop: "end",
  external: "external",
  resource: "resource",
  config: "configuration",
};

/**
 * State, sign and word, most urgent first: the first one a step has decides how its box looks.
 *
 * @type {[string, string, string][]}
 */
const STATES = [
  ["failed", "✕", "failed"],
  ["parked", "⊘", "parked"],
  ["retrying", "↻", "retrying"],
  ["running", "▶", "running"],
  ["waiting", "◔", "waiting"],
  ["ready", "→", "dispatched"],
  ["queued", "≡", "queued"],
  ["done", "✓", "done"],
];

/** The names of a graph's steps, from where it begins. @param {Graph} graph */
export function stepsInOrder(graph) {
  const steps = graph.boxes.filter((box) => box.look === "step");
  return steps.sort((a, b) => a.y + a.x - b.y - b.x).map((box) => box.id);
}

/**
 * The drawing; its `show(steps)` shows the state of each step in its box.
 *
 * @param {Graph} graph
 * @param {(id: string) => void} [open] called for the box of a step or work item that was clicked
 */
export function graphView(graph, open) {
  /** @type {Map<string, DrawnBox>} */
  const boxes = new Map();
  const steps = graph.boxes.filter((box) => box.look === "step").length;
  const stem = freshId("head");
  const svg = s("svg", {
    role: "img",
    "aria-label": `Graph of ${graph.title}: ${count(steps, "step")}. The step table lists the same steps.`,
    viewBox: `${-MARGIN} ${-MARGIN} ${graph.width + 2 * MARGIN} ${graph.height + 2 * MARGIN}`,
    width: graph.width + 2 * MARGIN,
    height: graph.height + 2 * MARGIN,
  });
  svg.append(
    s(
      "defs",
      {},
      ["plain", "thick", "dashed"].map((line) => head(line, stem)),
    ),
  );
  for (const arrow of graph.arrows) svg.append(drawnArrow(arrow, stem));
  for (const box of graph.boxes) {
    const drawn = drawnBox(box);
    boxes.set(box.id, drawn);
    svg.append(drawn.element);
  }
  if (open) {
    svg.classList.add("opens");
    svg.addEventListener("click", (event) => {
      const box = event.target instanceof Element ? event.target.closest("[data-step]") : null;
      if (box) open(box.getAttribute("data-step") ?? "");
    });
  }
  const element = h(
    "div",
    { class: "graph" },
    h("div", { class: "graph-scroll", tabindex: "0", role: "group", "aria-label": "Graph" }, svg),
    legend(graph),
  );
  return {
    element,
    /** @param {Map<string, StepCounts>} counts by step @param {string} status of the run @param {boolean} isPartial */
    show: (counts, status, isPartial = false) => {
      light(boxes, counts, isPartial);
      for (const drawn of boxes.values())
        if (drawn.box.look === "stop")
          drawn.element.setAttribute("data-state", status === "completed" ? "done" : "idle");
    },
  };
}

/** @param {string} line @param {string} stem of the id */
function head(line, stem) {
  return s(
    "marker",
    {
      id: `${stem}-${line}`,
      class: `head ${line}`,
      viewBox: "0 0 8 8",
      refX: "7.5",
      refY: "4",
      markerWidth: "8",
      markerHeight: "8",
      markerUnits: "userSpaceOnUse",
      orient: "auto",
    },
    s("path", { d: "M0 0.5 L8 4 L0 7.5 z" }),
  );
}

/** @param {GraphArrow} arrow @param {string} stem of the heads' ids */
function drawnArrow(arrow, stem) {
  return s(
    "g",
    { class: `arrow ${arrow.line}` },
    s("path", { d: arrow.path, "marker-end": `url(#${stem}-${arrow.line})` }),
    arrow.label ? s("text", { x: arrow.x, y: arrow.y }, arrow.label) : null,
  );
}

/**
 * @typedef {{element: SVGElement, title: SVGElement, detail: SVGElement | null, bar: SVGElement | null, box: GraphBox}}
 *   DrawnBox
 */

/** @param {GraphBox} box @returns {DrawnBox} */
function drawnBox(box) {
  const middle = box.x + box.width / 2;
  const isStep = box.look === "step";
  const lines = WORK.has(box.look) ? (isStep ? [box.detail ?? ""] : (box.detail ?? "").split("\n")) : [];
  const center = box.y + box.height / 2 + 4.5;
  const top = center - 7.5 * lines.length;
  const title = s("title", {}, box.title || box.label);
  const details = lines.map((line, at) =>
    s("text", { class: "detail", x: middle, y: top + 16 * (at + 1) + 0.5 }, line),
  );
  const shape =
    box.look === "resource" || box.look === "config"
      ? s("polygon", { points: hexagon(box) })
      : s("rect", { x: box.x, y: box.y, width: box.width, height: box.height, rx: FLAT.has(box.look) ? 14 : 7 });
  const bar = isStep
    ? s("rect", { class: "bar", x: box.x + 8, y: box.y + box.height - 5, width: 0, height: 2.5, rx: 1.2 })
    : null;
  const label = s("text", { x: middle, y: top }, box.label);
  return {
    element: s(
      "g",
      { class: `box ${box.look}`, "data-step": WORK.has(box.look) ? box.id : null },
      title,
      shape,
      bar,
      label,
      details,
    ),
    title,
    detail: isStep ? details[0] : null,
    bar,
    box,
  };
}

/** @param {GraphBox} box */
function hexagon({ x, y, width, height }) {
  const cut = 9;
  const points = [
    [x + cut, y],
    [x + width - cut, y],
    [x + width, y + height / 2],
    [x + width - cut, y + height],
    [x + cut, y + height],
    [x, y + height / 2],
  ];
  return points.map((point) => point.join(",")).join(" ");
}

/** @param {Graph} graph */
function legend(graph) {
  const looks = [...new Set(graph.boxes.map((box) => box.look))].filter((look) => LOOKS[look]);
  const lines = new Set(graph.arrows.map((arrow) => arrow.line));
  return h(
    "ul",
    { class: "legend", "aria-label": "Legend" },
    looks.map((look) => h("li", {}, h("span", { class: `swatch ${look}`, "aria-hidden": "true" }), LOOKS[look])),
    lines.has("thick")
      ? h("li", {}, h("span", { class: "line thick", "aria-hidden": "true" }), "fan-out / fan-in")
      : null,
    lines.has("dashed") ? h("li", {}, h("span", { class: "line dashed", "aria-hidden": "true" }), "failure") : null,
  );
}

/**
 * Show the state of each step in its box.
 *
 * @param {Map<string, DrawnBox>} boxes
 * @param {Map<string, StepCounts>} steps by name, as the server counts them
 * @param {boolean} isPartial whether the counts are lower bounds
 */
function light(boxes, steps, isPartial) {
  for (const [name, drawn] of boxes) {
    if (!drawn.detail) continue;
    const step = steps.get(name);
    const words = stepWords(step);
    const urgent = words[0];
    const isQuiet = !urgent || urgent[3] === "done";
    const state = isQuiet && step?.rescued ? "rescued" : (urgent?.[3] ?? "idle");
    drawn.element.setAttribute("data-state", state);
    if (steps.size) drawn.detail.textContent = detail(words, step, isPartial);
    const title = words.map(
      ([, number, word]) => `${number.toLocaleString("en")}${isPartial && word === "done" ? "+" : ""} ${word}`,
    );
    if (step?.failures) title.push(`${count(step.failures, "failed attempt")}`);
    drawn.title.textContent = [drawn.box.title || drawn.box.label, ...title].join("\n");
    const share = step ? step.done / Math.max(1, totalOf(step)) : 0;
    drawn.bar?.setAttribute("width", String(totalOf(step) > 1 ? Math.round((drawn.box.width - 16) * share) : 0));
  }
}

/** @param {StepCounts | undefined} step */
function totalOf(step) {
  if (!step) return 0;
  return STATES.reduce((sum, [key]) => sum + step[key], 0) + step.rescued;
}

/** "40 of 60", if it is more than one. @param {StepCounts | undefined} step @param {boolean} [isPartial] */
export function progressOf(step, isPartial) {
  const total = totalOf(step);
  if (!step || total < 2) return null;
  return `${step.done.toLocaleString("en")}${isPartial ? "+" : ""} of ${total.toLocaleString("en")}${isPartial ? "+" : ""}`;
}

/**
 * How far a step is, and what is under way, as far as there is room for it.
 *
 * @param {[string, number, string, string][]} words
 * @param {StepCounts | undefined} step
 * @param {boolean} isPartial
 */
function detail(words, step, isPartial) {
  const progress = progressOf(step, isPartial);
  const rescued = step?.rescued ? `  ↷ ${step.rescued}` : "";
  if (progress === null) return (words[0]?.slice(0, 3).join(" ") ?? (rescued ? "rescued" : "–")) + rescued;
  const active = words.filter(([, , word]) => word !== "done");
  if (active.length === 0) return `✓ ${progress}${rescued}`;
  return `${active
    .slice(0, 3)
    .map(([sign, number]) => `${sign} ${number.toLocaleString("en")}`)
    .join(" ")}  ${progress}${rescued}`;
}

/**
 * What a step does, as (sign, number, word, state), most urgent first.
 *
 * @param {StepCounts | undefined} step
 * @returns {[string, number, string, string][]}
 */
export function stepWords(step) {
  return step ? STATES.filter(([key]) => step[key] > 0).map(([key, sign, word]) => [sign, step[key], word, key]) : [];
}
