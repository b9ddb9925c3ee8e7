// A table of figures: the first column names what a row is about, the others are right-aligned.

import { h } from "./dom.js";

/**
 * @param {string} caption
 * @param {string[]} headings
 * @param {any[][]} rows the first cell of each is its heading
 */
export function dataTable(caption, headings, rows) {
  return h(
    "div",
    { class: "table-scroll" },
    h(
      "table",
      {},
      h("caption", { class: "unseen" }, caption),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          headings.map((each, at) => h("th", { scope: "col", class: at ? "figure" : null }, each)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map(([first, ...rest]) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, first),
            rest.map((each) => h("td", { class: "figure" }, each)),
          ),
        ),
      ),
    ),
  );
}
