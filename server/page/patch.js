// Elements brought up to date in place: what stays the same keeps focus, selection and scroll position.

import { put } from "./dom.js";

/**
 * Replace an element's children as `fill` does, but keep those that are there already.
 *
 * A child with `data-key` is matched by it, others by position and tag. Listeners of a kept element stay those it was
 * made with: they may only refer to what the key stands for. A kept `<details>` stays open or closed, and what is in an
 * element with `data-own` is its own business.
 *
 * @template {Element} Kind
 * @param {Kind} element
 * @param {...any} children
 * @returns {Kind}
 */
export function patch(element, ...children) {
  const active = document.activeElement;
  const fresh = put(/** @type {Element} */ (element.cloneNode(false)), ...children);
  adopt(element, fresh);
  // An element that was moved has lost its focus.
  if (active instanceof HTMLElement || active instanceof SVGElement)
    if (active !== document.activeElement && element.contains(active)) active.focus({ preventScroll: true });
  return element;
}

/** @param {Node} node */
function keyOf(node) {
  return node instanceof HTMLElement || node instanceof SVGElement ? node.dataset.key : undefined;
}

/** @param {Element} element @param {Element} fresh */
function adopt(element, fresh) {
  /** @type {Map<string, ChildNode>} */
  const keyed = new Map();
  for (const child of element.childNodes) {
    const key = keyOf(child);
    if (key !== undefined) keyed.set(key, child);
  }
  let at = element.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const key = keyOf(wanted);
    const match = key !== undefined ? keyed.get(key) : at && keyOf(at) === undefined ? at : undefined;
    if (!match || match.nodeName !== wanted.nodeName) {
      element.insertBefore(wanted, at);
      continue;
    }
    if (match === at) at = at.nextSibling;
    else element.insertBefore(match, at);
    update(match, wanted);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

/** @param {ChildNode} node @param {ChildNode} wanted */
function update(node, wanted) {
  if (node.isEqualNode(wanted)) return;
  if (!(node instanceof Element) || !(wanted instanceof Element)) {
    node.nodeValue = wanted.nodeValue;
    return;
  }
  for (const { name } of [...node.attributes])
    if (!wanted.hasAttribute(name) && name !== "open") node.removeAttribute(name);
  for (const { name, value } of wanted.attributes)
    if (node.getAttribute(name) !== value && name !== "open") node.setAttribute(name, value);
  if (!node.hasAttribute("data-own")) adopt(node, wanted);
}
