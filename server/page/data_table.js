// Tables: in a box that scrolls sideways, each with a caption for readers who do not see it.

import { h } from "./dom.js";

/**
 * @param {string} caption
 * @param {(HTMLElement | null | HTMLElement[])[]} headings
 * @param {HTMLElement[]} rows
 * @param {string | null} kind class of the table
 */
export function table(caption, headings, rows, kind = null) {
  return h(
    "div",
    { class: "table-scroll" },
    h(
      "table",
      { class: kind },
      h("caption", { class: "unseen" }, caption),
      h("thead", {}, h("tr", {}, headings)),
      h("tbody", {}, rows),
    ),
  );
}

/**
 * The heading of a column.
 *
 * @param {string} text
 * @param {boolean} isFigure whether the column is right-aligned
 */
export function columnHeading(text, isFigure = false) {
  return h("th", { scope: "col", class: isFigure ? "figure" : null }, text);
}

/**
 * A table of figures: the first column names what a row is about, the others are right-aligned.
 *
 * @param {string} caption
 * @param {string[]} headings
 * @param {any[][]} rows the first cell of each is its heading
 */
export function dataTable(caption, headings, rows) {
  return table(
    caption,
    headings.map((each, at) => columnHeading(each, at > 0)),
    rows.map(([first, ...rest]) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, first),
        rest.map((each) => h("td", { class: "figure" }, each)),
      ),
    ),
  );
}
