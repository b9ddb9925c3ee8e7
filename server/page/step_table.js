// The steps of a run as a table, in the order of the graph.

import { h } from "./dom.js";
import { duration } from "./format.js";
import { progressOf, stepWords } from "./graph.js";
import { patch } from "./patch.js";

const COLUMNS = [
  "queued",
  "ready",
  "running",
  "retrying",
  "waiting",
  "parked",
  "failed",
  "done",
  "failures",
  "rescued",
];
/** @type {Record<string, string>} */
const WORDS = { ready: "dispatched" };

/** @param {string[]} order of the steps @param {(step: string) => void} open */
export function stepTable(order, open) {
  const element = h("div");
  return {
    element,
    /** @param {Run} run */
    show(run) {
      const rows = [...run.steps].sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name));
      const used = COLUMNS.filter(
        (each) => ["running", "done"].includes(each) || run.steps.some((step) => step[each] > 0),
      );
      const head = ["Step", "Now", ...used.map((each) => WORDS[each] ?? each), "average", "longest"];
      const table = h(
        "table",
        {},
        h("caption", { class: "unseen" }, "Steps"),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            head.map((each, at) => h("th", { scope: "col", class: at > 1 ? "figure" : null, "data-key": each }, each)),
          ),
        ),
        h(
          "tbody",
          {},
          rows.map((step) => row(step, used, open)),
        ),
      );
      patch(
        element,
        h("div", { class: "table-scroll" }, table),
        run.is_partial ? h("p", { class: "muted" }, "This run is large: the counts cover only its latest part.") : null,
      );
    },
  };
}

/** @param {StepCounts} step @param {string[]} used @param {(step: string) => void} open */
function row(step, used, open) {
  const executed = step.done + step.failures;
  const cells = [
    ...used.map((each) => step[each].toLocaleString("en")),
    executed ? duration(step.total_ms / executed) : "–",
    executed ? duration(step.longest_ms) : "–",
  ];
  return h(
    "tr",
    { "data-key": step.name },
    h(
      "th",
      { scope: "row" },
      h("button", { type: "button", class: "link", "data-row": true, onclick: () => open(step.name) }, step.name),
    ),
    h("td", { class: "now" }, progressOf(step) ?? stepWords(step)[0]?.[2] ?? "–"),
    cells.map((cell) => h("td", { class: "figure" }, cell)),
  );
}
