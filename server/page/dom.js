// Elements from data. Text becomes text nodes and nothing else: no string is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An HTML element. Properties that begin with `on` are listeners; null, undefined and false are left out.
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any>} [properties]
 * @param {...any} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function h(tag, properties, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/**
 * An SVG element.
 *
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any>} [properties]
 * @param {...any} children
 * @returns {SVGElementTagNameMap[Tag]}
 */
export function s(tag, properties, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

/**
 * @template {Element} Kind
 * @param {Kind} element
 * @param {Record<string, any> | undefined} properties
 * @param {any[]} children
 * @returns {Kind}
 */
function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled" || name === "open")
      Object.assign(element, { [name]: value });
    else element.setAttribute(name, value === true ? "" : value);
  }
  put(element, ...children);
  return element;
}

/**
 * Add children: elements, texts, lists of them.
 *
 * @template {Element} Kind
 * @param {Kind} element
 * @param {...any} children
 * @returns {Kind}
 */
export function put(element, ...children) {
  for (const child of children.flat(9)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

/**
 * Replace all children.
 *
 * @template {Element} Kind
 * @param {Kind} element
 * @param {...any} children
 * @returns {Kind}
 */
export function fill(element, ...children) {
  element.replaceChildren();
  return put(element, ...children);
}

let ids = 0;

/**
 * The element of `index.html` with this id.
 *
 * @template {HTMLElement} Kind
 * @param {string} id
 * @param {new () => Kind} kind its class
 * @returns {Kind}
 */
export function byId(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`The page has no ${kind.name} with id ${id}.`);
  return found;
}

/** An id that no other element of the page has. @param {string} stem */
export function freshId(stem) {
  ids += 1;
  return `${stem}-${ids}`;
}

/** Have screen readers announce a text. @param {string} text */
export function announce(text) {
  byId("announcer", HTMLElement).textContent = text;
}

/** A panel with a heading. @param {string} title @param {...any} children */
export function panel(title, ...children) {
  const id = freshId("panel");
  return h("section", { class: "panel", "aria-labelledby": id }, h("h2", { id }, title), ...children);
}

/**
 * A placeholder where there is nothing to show.
 *
 * @param {string} title
 * @param {string | null} text
 * @param {...any} more
 */
export function blank(title, text, ...more) {
  return h("div", { class: "blank" }, h("p", { class: "blank-title" }, title), text ? h("p", {}, text) : null, ...more);
}

/** Where a step failed, opened on demand. @param {string} text */
export function tracebackBox(text) {
  return h("details", { class: "traceback" }, h("summary", {}, "Traceback"), h("pre", { tabindex: "0" }, text));
}

/** An error message, with a button to try again. @param {any} error @param {(() => void) | null} again */
export function errorBox(error, again) {
  const retry = again ? h("button", { type: "button", onclick: again }, "Try again") : null;
  return h("div", { class: "blank trouble", role: "alert" }, h("p", { class: "blank-title" }, error.message), retry);
}
