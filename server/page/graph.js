// A workflow's graph as SVG. The server has laid it out; with a run, each step says what it does right now.

import { h, s } from "./dom.js";
import { count } from "./format.js";

const MARGIN = 14;
const FLAT = new Set(["event", "start", "stop", "child", "omitted"]);

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

/**
 * The drawing; its `show(steps)` shows the state of each step in its box.
 *
 * @param {Graph} graph
 */
export function graphView(graph) {
  /** @type {Map<string, DrawnBox>} */
  const boxes = new Map();
  const steps = graph.boxes.filter((box) => box.look === "step").length;
  const svg = s("svg", {
    role: "img",
    "aria-label": `Graph of ${graph.title}: ${count(steps, "step")}. The step table lists the same steps.`,
    viewBox: `${-MARGIN} ${-MARGIN} ${graph.width + 2 * MARGIN} ${graph.height + 2 * MARGIN}`,
    width: graph.width + 2 * MARGIN,
    height: graph.height + 2 * MARGIN,
  });
  svg.append(s("defs", {}, ["plain", "thick", "dashed"].map(head)));
  for (const arrow of graph.arrows) svg.append(drawnArrow(arrow));
  for (const box of graph.boxes) {
    const drawn = drawnBox(box);
    boxes.set(box.id, drawn);
    svg.append(drawn.element);
  }
  const element = h(
    "div",
    { class: "graph" },
    h("div", { class: "graph-scroll", tabindex: "0", role: "group", "aria-label": "Graph" }, svg),
    legend(graph),
  );
  return {
    element,
    show: (/** @type {Map<string, StepCounts>} */ counts, isPartial = false) => light(boxes, counts, isPartial),
  };
}

/** @param {string} line */
function head(line) {
  return s(
    "marker",
    {
      id: `head-${line}`,
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

/** @param {GraphArrow} arrow */
function drawnArrow(arrow) {
  return s(
    "g",
    { class: `arrow ${arrow.line}` },
    s("path", { d: arrow.path, "marker-end": `url(#head-${arrow.line})` }),
    arrow.label ? s("text", { x: arrow.x, y: arrow.y }, arrow.label) : null,
  );
}

/** @typedef {{element: SVGElement, title: SVGElement, detail: SVGElement | null, box: GraphBox}} DrawnBox */

/** @param {GraphBox} box @returns {DrawnBox} */
function drawnBox(box) {
  const middle = box.x + box.width / 2;
  const isStep = box.look === "step";
  const center = box.y + box.height / 2 + 4.5;
  const title = s("title", {}, box.title || box.label);
  const second = isStep ? s("text", { class: "detail", x: middle, y: center + 9 }, box.detail ?? "") : null;
  const shape =
    box.look === "resource" || box.look === "config"
      ? s("polygon", { points: hexagon(box) })
      : s("rect", { x: box.x, y: box.y, width: box.width, height: box.height, rx: FLAT.has(box.look) ? 14 : 7 });
  const label = s("text", { x: middle, y: isStep ? center - 7.5 : center }, box.label);
  return {
    element: s("g", { class: `box ${box.look}`, "data-step": isStep ? box.id : null }, title, shape, label, second),
    title,
    detail: second,
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
    const state = step ? (STATES.find(([key]) => step[key] > 0)?.[0] ?? "idle") : "idle";
    drawn.element.setAttribute("data-state", state);
    /** @type {string[][]} */
    const words = stepWords(step).map(([sign, number, word]) => [
      sign,
      number.toLocaleString("en") + (isPartial && word === "done" ? "+" : ""),
      word,
    ]);
    drawn.detail.textContent = steps.size ? detail(words) : drawn.box.detail;
    drawn.title.textContent = [
      drawn.box.title || drawn.box.label,
      ...words.map(([, number, word]) => `${number} ${word}`),
    ].join("\n");
  }
}

/** The most urgent state and how much is done; if nothing is, the next state. @param {string[][]} words */
function detail(words) {
  const shown = [words[0], words.slice(1).find(([, , word]) => word === "done") ?? words[1]].filter(Boolean);
  return shown.map((each) => each.join(" ")).join("  ") || "–";
}

/**
 * What a step does, as (sign, number, word), most urgent first.
 *
 * @param {StepCounts | undefined} step
 * @returns {[string, number, string][]}
 */
export function stepWords(step) {
  return step ? STATES.filter(([key]) => step[key] > 0).map(([key, sign, word]) => [sign, step[key], word]) : [];
}
