// What all fields of a form share: label, hint, error, and reading the value.

/**
 * An input, or a group of them.
 *
 * @typedef {object} Field
 * @property {HTMLElement} element
 * @property {(string | number)[]} path names and positions from the form down to it
 * @property {Field[]} children
 * @property {(message: string | null) => void} complain shows a problem at the field, or takes it away
 * @property {() => void} focus
 * @property {(problems: Problem[]) => any} read its value, or UNSET; adds what is wrong to `problems`
 */

/** @typedef {Field & {name: string}} NamedField */

/** @typedef {{field: Field, message: string}} Problem */

/**
 * What is known of a field besides its schema.
 *
 * @typedef {object} Facts
 * @property {string} name
 * @property {string} title
 * @property {(string | number)[]} path
 * @property {boolean} required
 * @property {number} depth of nesting
 * @property {boolean} [optional] it may be left empty
 * @property {boolean} [nullable]
 * @property {boolean} [hasAnswer] it always has a value, as a checkbox has
 */

import { freshId, h } from "./dom.js";

/** The value of a field that was left empty. */
export const UNSET = Symbol("unset");

/**
 * Label, description and place for an error around an input.
 *
 * @param {HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement} input
 * @param {Schema} schema
 * @param {Facts} facts
 * @returns {Omit<Field, "read">}
 */
export function labelled(input, schema, facts, { inline = false } = {}) {
  const id = freshId("field");
  input.id = id;
  const notes = [];
  const hint = schema.description ? h("p", { class: "hint", id: `${id}-hint` }, schema.description) : null;
  if (hint) notes.push(hint.id);
  const error = h("p", { class: "field-error", id: `${id}-error`, hidden: true });
  notes.push(error.id);
  const isRequired = !facts.optional && !facts.hasAnswer;
  if (isRequired) input.setAttribute("aria-required", "true");
  const label = h("label", { for: id }, facts.title);
  const kind = h("span", { class: "kind", id: `${id}-kind` }, kindOf(schema, facts));
  const row = h(
    "div",
    { class: "label-row" },
    label,
    isRequired ? h("span", { class: "required", "aria-hidden": "true" }, "*") : null,
    kind,
  );
  input.setAttribute("aria-describedby", [kind.id, ...notes].join(" "));
  const element = inline
    ? h("div", { class: "field inline" }, input, row, hint, error)
    : h("div", { class: "field" }, row, hint, input, error);
  const complain = (/** @type {string | null} */ message) => {
    error.textContent = message ?? "";
    error.hidden = !message;
    if (message) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
  };
  input.addEventListener("input", () => complain(null));
  return { element, complain, focus: () => input.focus(), path: facts.path, children: [] };
}

/** @param {Schema} schema @param {Facts} facts */
function kindOf(schema, facts) {
  const words = [schema.format ?? (Array.isArray(schema.enum) || schema.const !== undefined ? null : schema.type)];
  if (facts.optional && !facts.hasAnswer) words.push("optional");
  return words.filter(Boolean).join(", ");
}

/**
 * Add a `read` that shows the problem at the field.
 *
 * @param {Omit<Field, "read">} field
 * @param {Facts} facts
 * @param {() => {value: any, problem?: string}} look
 * @returns {Field}
 */
export function reading(field, facts, look) {
  const read = (/** @type {Problem[]} */ problems) => {
    const { value, problem } = look();
    field.complain(problem ?? null);
    if (problem) problems.push({ field: complete, message: `${facts.title}: ${problem}` });
    return value;
  };
  const complete = Object.assign(field, { read });
  return complete;
}
