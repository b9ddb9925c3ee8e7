// Dialogs that any view opens: to confirm, to choose a workflow, the list of shortcuts.

import { fill, freshId, h } from "./dom.js";
import { get } from "./http.js";

/**
 * A modal dialog; it is removed when it closes.
 *
 * @param {string} title
 * @param {string} kind its class
 * @param {(close: () => void) => any} content
 */
export function openDialog(title, kind, content) {
  const id = freshId("dialog");
  const dialog = h("dialog", { class: kind, "aria-labelledby": id });
  const close = () => dialog.close();
  dialog.append(h("h2", { id }, title));
  for (const each of [content(close)].flat(9)) if (each) dialog.append(each);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) close();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/**
 * Ask before something is done.
 *
 * @param {string} title what is asked
 * @param {string} text what happens
 * @param {string} action label of the button that does it
 * @param {boolean} [isDanger]
 * @returns {Promise<boolean>}
 */
export function confirmed(title, text, action, isDanger = false) {
  return new Promise((resolve) => {
    let isAgreed = false;
    const dialog = openDialog(title, "confirm", (close) => [
      h("p", {}, text),
      h(
        "p",
        { class: "actions" },
        h(
          "button",
          { type: "button", class: isDanger ? "danger" : "primary", onclick: () => ((isAgreed = true), close()) },
          action,
        ),
        h("button", { type: "button", onclick: close }, "Back"),
      ),
    ]);
    dialog.addEventListener("close", () => resolve(isAgreed));
  });
}

/** Choose the workflow to start; the only one is chosen at once. */
export async function chooseWorkflow() {
  const place = h("div", { class: "choices" }, h("p", { class: "muted" }, "Loading …"));
  /** @type {string[]} */
  let names = [];
  try {
    names = (await get("workflows")).workflows;
  } catch (error) {
    fill(place, h("p", { class: "field-error" }, error.message));
  }
  if (names.length === 1) {
    location.hash = `#/workflows/${encodeURIComponent(names[0])}`;
    return;
  }
  openDialog("Start a run", "choose", (close) => {
    if (names.length)
      fill(
        place,
        h(
          "ul",
          {},
          names.map((name) =>
            h("li", {}, h("a", { href: `#/workflows/${encodeURIComponent(name)}`, onclick: close }, name)),
          ),
        ),
      );
    else if (!place.querySelector(".field-error"))
      fill(
        place,
        h("p", { class: "muted" }, "This server serves no workflows. Serve some: umbel serve module:Workflow"),
      );
    return [place, h("p", { class: "actions" }, h("button", { type: "button", onclick: close }, "Close"))];
  });
}

/** What each key does, in the order of the list. @type {[string, string][]} */
const SHORTCUTS = [
  ["/", "Search or filter"],
  ["j  k", "Next, previous row"],
  ["Enter", "Open the row"],
  ["s", "Start a run"],
  ["g o", "Overview"],
  ["g r", "Runs"],
  ["g w", "Workflows"],
  ["g f", "Failures"],
  ["?", "This list"],
];

export function showShortcuts() {
  openDialog("Keyboard shortcuts", "shortcuts", (close) => [
    h(
      "dl",
      {},
      SHORTCUTS.map(([keys, what]) =>
        h(
          "div",
          {},
          h(
            "dt",
            {},
            keys.split(/\s+/).map((key) => h("kbd", {}, key)),
          ),
          h("dd", {}, what),
        ),
      ),
    ),
    h("p", { class: "actions" }, h("button", { type: "button", onclick: close }, "Close")),
  ]);
}
