// Keys that work on every view.

import { chooseWorkflow, showShortcuts } from "./dialogs.js";

/** Where `g` and a letter lead. @type {Record<string, string>} */
const PLACES = { o: "#/", r: "#/runs", w: "#/workflows", f: "#/failures" };

/** Have keys work, except while somebody types. @param {HTMLElement} main */
export function shortcuts(main) {
  let before = "";
  addEventListener("keydown", (event) => {
    const target = event.target instanceof HTMLElement ? event.target : null;
    if (event.ctrlKey || event.metaKey || event.altKey || target?.closest("input, textarea, select, dialog")) return;
    const isAfterG = before === "g";
    before = event.key;
    if (isAfterG && PLACES[event.key]) location.hash = PLACES[event.key];
    else if (event.key === "/") visible(main, "input[type=search]")?.focus();
    else if (event.key === "?") showShortcuts();
    else if (event.key === "s") chooseWorkflow();
    else if (event.key === "j" || event.key === "k") step(main, event.key === "j" ? 1 : -1);
    else return;
    event.preventDefault();
  });
}

/** @param {HTMLElement} main @param {string} selector @returns {HTMLElement | undefined} */
function visible(main, selector) {
  return [.../** @type {NodeListOf<HTMLElement>} */ (main.querySelectorAll(selector))].find((each) =>
    each.checkVisibility(),
  );
}

/** Move the focus among the rows of the list. @param {HTMLElement} main @param {number} by */
function step(main, by) {
  const rows = [.../** @type {NodeListOf<HTMLElement>} */ (main.querySelectorAll("[data-row]"))].filter((each) =>
    each.checkVisibility(),
  );
  const at = rows.findIndex((each) => each === document.activeElement);
  const next = at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + by));
  rows[next]?.focus();
  rows[next]?.scrollIntoView({ block: "nearest" });
}
