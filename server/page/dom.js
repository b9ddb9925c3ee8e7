// Elements from data. Text becomes text nodes and nothing else: no string is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Properties that begin with `on` are listeners; null, undefined and false are left out. */
export function h(tag, properties, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** An SVG element. */
export function s(tag, properties, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled" || name === "open") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  put(element, ...children);
  return element;
}

/** Add children: elements, texts, lists of them. */
export function put(element, ...children) {
  for (const child of children.flat(9)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

/** Replace all children. */
export function fill(element, ...children) {
  element.replaceChildren();
  return put(element, ...children);
}

let ids = 0;

/** An id that no other element of the page has. */
export function freshId(stem) {
  ids += 1;
  return `${stem}-${ids}`;
}

/** Tell screen readers. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

/** A panel with a heading. */
export function panel(title, ...children) {
  const id = freshId("panel");
  return h("section", { class: "panel", "aria-labelledby": id }, h("h2", { id }, title), ...children);
}

/** What stands where there is nothing to show yet, or something went wrong. */
export function blank(title, text, ...more) {
  return h("div", { class: "blank" }, h("p", { class: "blank-title" }, title), text ? h("p", {}, text) : null, ...more);
}

/** An error in place, with a way to try again. */
export function trouble(error, again) {
  const retry = again ? h("button", { type: "button", onclick: again }, "Try again") : null;
  return h("div", { class: "blank trouble", role: "alert" }, h("p", { class: "blank-title" }, error.message), retry);
}
