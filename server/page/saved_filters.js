// Filters kept in this browser under a name; each is a link, since a filter stands in the address.

import { h } from "./dom.js";
import { openDialog } from "./dialogs.js";
import { patch } from "./patch.js";

const KEY = "umbel.filters";

/** @returns {Record<string, string>} name -> address */
function saved() {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? "{}");
  } catch {
    return {};
  }
}

/** @param {Record<string, string>} filters */
function save(filters) {
  if (Object.keys(filters).length) localStorage.setItem(KEY, JSON.stringify(filters));
  else localStorage.removeItem(KEY);
}

/** The links, and a button that saves the present filter; `show()` brings them up to date. */
export function savedFilters() {
  const element = h("p", { class: "saved-filters" });

  function show() {
    const filters = saved();
    const here = location.hash;
    const isNew = here.includes("?") && !Object.values(filters).includes(here);
    patch(
      element,
      Object.entries(filters).map(([name, address]) =>
        h(
          "span",
          { class: "saved-filter", "data-key": name },
          h("a", { href: address, "aria-current": address === here ? "true" : null }, name),
          h(
            "button",
            { type: "button", class: "quiet", "aria-label": `Forget the filter ${name}`, onclick: () => forget(name) },
            "×",
          ),
        ),
      ),
      isNew ? h("button", { type: "button", class: "quiet", "data-key": "+", onclick: ask }, "Save this filter") : null,
    );
    element.hidden = element.childElementCount === 0;
  }

  /** @param {string} name */
  function forget(name) {
    const { [name]: _forgotten, ...others } = saved();
    save(others);
    show();
  }

  function ask() {
    const input = h("input", { id: "filter-name", type: "text", maxlength: "40", required: true });
    openDialog("Save this filter", "save-filter", (close) =>
      h(
        "form",
        {
          onsubmit: (event) => {
            event.preventDefault();
            save({ ...saved(), [input.value.trim() || "Filter"]: location.hash });
            close();
            show();
          },
        },
        h("p", { class: "muted" }, "It is kept in this browser. To share it, copy the address."),
        h("label", { for: "filter-name" }, "Name"),
        input,
        h(
          "p",
          { class: "actions" },
          h("button", { type: "submit", class: "primary" }, "Save"),
          h("button", { type: "button", onclick: close }, "Back"),
        ),
      ),
    );
    input.focus();
  }

  show();
  return { element, show };
}
