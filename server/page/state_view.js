// What a run started with, and its state.

import { fill, h } from "./dom.js";
import { bytes, count } from "./format.js";
import { jsonText, shownValue } from "./json_view.js";

export function stateView() {
  const element = h("div");
  let shown = "";
  return {
    element,
    /** @param {Run} run */
    show(run) {
      const text = jsonText([run.state, run.state_left_out, run.began_with]);
      if (text === shown) return;
      shown = text;
      const began = run.began_with;
      fill(
        element,
        began
          ? h(
              "section",
              { class: "part", "aria-label": "Started with" },
              h("h3", {}, "Started with ", h("code", {}, began.type)),
              shownValue(began, 3),
            )
          : null,
        h(
          "section",
          { class: "part", "aria-label": "ctx.store" },
          h("h3", {}, h("code", {}, "ctx.store")),
          stateList(run.state),
        ),
        run.state_left_out ? h("p", { class: "muted" }, `${count(run.state_left_out, "more key")} not shown.`) : null,
      );
    },
  };
}

/** @param {(Shown & {key: string, size?: number})[]} state */
export function stateList(state) {
  if (state.length === 0) return h("p", { class: "muted" }, "Empty.");
  return h(
    "dl",
    { class: "state" },
    state.map((each) =>
      h(
        "div",
        {},
        h("dt", {}, each.key, h("span", { class: "kind" }, bytes(each.size ?? 0))),
        h("dd", {}, shownValue(each, 2)),
      ),
    ),
  );
}
