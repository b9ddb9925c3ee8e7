// A run unrolled: each work item a box, drawn when the tab is opened.

import { errorBox, fill, h } from "./dom.js";
import { graphView } from "./graph.js";
import { get } from "./http.js";

/** @param {string} path of the run's data @param {(workId: string) => void} open */
export function unrolled(path, open) {
  const place = h("div", { class: "unrolled" });
  const again = h("button", { type: "button", class: "quiet", onclick: () => load() }, "Draw again");
  const element = h("div", {}, place);
  let drawnFor = "";

  async function load() {
    try {
      const graph = await get(`${path}/drawing`);
      const view = graphView(graph, (id) => open(id));
      fill(
        place,
        graph.remarks.map((/** @type {string} */ each) => h("p", { class: "muted" }, each)),
        view.element,
        h("p", { class: "actions" }, again),
      );
    } catch (error) {
      fill(place, errorBox(error, load));
    }
  }

  return {
    element,
    /** Draw it if it is visible and has changed. @param {Run} run */
    show(run) {
      const now = `${run.status} ${run.head}`;
      if (drawnFor === now || !element.checkVisibility()) return;
      if (drawnFor && run.status === "running") return; // while it runs, on demand
      drawnFor = now;
      load();
    },
  };
}
