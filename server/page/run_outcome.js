// How a run ended: its result, or where and why it failed.

import { fill, h, panel, tracebackBox } from "./dom.js";
import { jsonText, shownValue } from "./json_view.js";

/**
 * @param {(step: string) => void} openStep shows the executions of the step that failed
 * @param {(workId: string) => void} forkBefore shows the run as it was before a work item, to fork it there
 */
export function runOutcome(openStep, forkBefore) {
  const element = h("div", { class: "outcome" });
  let shown = "";

  /** @param {Run} run */
  function failure(run) {
    const { step, attempts, error } = run.failure ?? { step: "", attempts: 0, error: "" };
    const failed = run.timeline.findLast((bar) => bar.step === step && bar.outcome === "failed");
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
            failed
              ? h(
                  "button",
                  {
                    type: "button",
                    title: "Opens its past at this step, where its input can be edited",
                    onclick: () => forkBefore(failed.work_id),
                  },
                  "Fork before this step",
                )
              : null,
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
