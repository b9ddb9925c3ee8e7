// JSON as a tree that opens and closes; every key and value is a text node.

import { h } from "./dom.js";
import { bytes, count } from "./format.js";

/** Entries of one object or list that are shown at first. */
const SHOWN_ENTRIES = 200;
/** Characters of a text that are shown at first. */
const SHOWN_CHARACTERS = 2000;

/** A value as a tree. @param {any} value @param {number} depth how many levels are open */
export function jsonView(value, depth = 2) {
  return h("div", { class: "json" }, node(value, depth));
}

/** A value, or why the server left it out. @param {Shown} shown @param {number} [depth] */
export function shownValue(shown, depth) {
  if (shown.why_not) return h("p", { class: "muted" }, `${bytes(shown.size ?? 0)}, ${shown.why_not}.`);
  return jsonView(shown.value, depth);
}

/** JSON text of a value, with whole numbers of any size. */
export function jsonText(value, indent = 2) {
  const marked = JSON.stringify(value, (_, item) => (typeof item === "bigint" ? `\u0000${item}` : item), indent);
  return (marked ?? "null").replace(/"\\u0000(-?\d+)"/g, "$1");
}

/** A value in one line. */
export function gist(value, length = 140) {
  const text = typeof value === "string" ? value : jsonText(value, 0);
  return text.length > length ? `${text.slice(0, length)}…` : text;
}

function node(value, depth) {
  if (value === null || typeof value !== "object") return scalar(value);
  const entries = Array.isArray(value) ? value.map((item, at) => [at, item]) : Object.entries(value);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (entries.length === 0) return h("span", { class: "json-mark" }, open + close);
  const list = h("ul");
  const holder = h(
    "details",
    { open: depth > 0, ontoggle: () => holder.open && unfold() },
    h(
      "summary",
      {},
      h("span", { class: "json-mark" }, `${open}…${close} `),
      h("span", { class: "muted" }, what(value, entries)),
    ),
    list,
  );
  let shown = 0;
  const unfold = () => {
    if (shown === 0) more();
  };
  const more = () => {
    for (const [key, item] of entries.slice(shown, shown + SHOWN_ENTRIES)) {
      list.append(
        h(
          "li",
          {},
          h("span", { class: "json-key" }, String(key)),
          h("span", { class: "json-mark" }, ": "),
          node(item, depth - 1),
        ),
      );
    }
    shown += SHOWN_ENTRIES;
    if (shown < entries.length) {
      const rest = count(entries.length - shown, "more");
      const button = h(
        "button",
        { type: "button", class: "quiet", onclick: () => (button.remove(), more()) },
        `${rest} …`,
      );
      list.append(button);
    }
  };
  if (depth > 0) unfold();
  return holder;
}

function what(value, entries) {
  return Array.isArray(value) ? count(entries.length, "item") : count(entries.length, "key");
}

function scalar(value) {
  if (typeof value !== "string")
    return h("span", { class: `json-${value === null ? "null" : typeof value}` }, String(value));
  if (value.length <= SHOWN_CHARACTERS) return h("span", { class: "json-string" }, JSON.stringify(value));
  const text = h("span", { class: "json-string" }, `${JSON.stringify(value.slice(0, SHOWN_CHARACTERS))}…`);
  const all = h("button", {
    type: "button",
    class: "quiet",
    onclick: () => (text.replaceChildren(JSON.stringify(value)), all.remove()),
  });
  all.textContent = `all ${count(value.length, "character")}`;
  return h("span", {}, text, all);
}
