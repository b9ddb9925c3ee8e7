// How a run ended: its result, or where and why it failed.

import { fill, h, panel, tracebackBox } from "./dom.js";
import { jsonText, shownValue } from "./json_view.js";

/** @param {(step: string) => void} openStep shows the executions of the step that failed */
export function runOutcome(openStep) {
  const element = h("div", { class: "outcome" });
  let shown = "";

  /** @param {Run} run */
  function failure(run) {
    const { step, attempts, error } = run.failure ?? { step: "", attempts: 0, error: "" };
    const where = step ? ["Failed in ", h("code", {}, step)] : ["Failed"];
    const heading = run.failure
      ? [where, attempts > 1 ? ` on attempt ${attempts}` : ""]
      : run.status === "cancelled"
        ? "Cancelled"
        : "Error";
    return h(
      "section",
      { class: `panel failure ${run.status}`, "aria-label": "Error" },
      h("h2", {}, heading),
      h("p", { class: "error-text" }, run.failure ? error : run.error),
      run.traceback ? tracebackBox(run.traceback) : null,
      step
        ? h(
            "p",
            { class: "actions" },
            h("button", { type: "button", onclick: () => openStep(step) }, "Open the execution"),
          )
        : null,
    );
  }

  return {
    element,
    /** @param {Run} run */
    show(run) {
      const text = jsonText([run.status, run.result, run.error, run.trouble]);
      if (text === shown) return;
      shown = text;
      const event = run.result?.event;
      fill(
        element,
        run.trouble ? h("p", { class: "warning" }, h("span", { "aria-hidden": "true" }, "⚠ "), run.trouble) : null,
        run.result
          ? panel("Result", event ? h("p", { class: "muted" }, h("code", {}, event)) : null, shownValue(run.result, 3))
          : null,
        run.error ? failure(run) : null,
      );
    },
  };
}
