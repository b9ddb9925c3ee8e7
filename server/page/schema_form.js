// A form from the JSON schema of an event: fields, errors where they belong, and what was sent.

import { announce, fill, freshId, h } from "./dom.js";
import { jsonText } from "./json_view.js";
/**
 * @typedef {import("./field_frame.js").Field} Field
 * @typedef {import("./field_frame.js").NamedField} NamedField
 * @typedef {import("./field_frame.js").Problem} Problem
 */

import { propertiesOf, valuesOf } from "./schema_fields.js";

/**
 * A form.
 *
 * @param {object} options
 * @param {Schema | null} options.schema of an object; null asks for JSON
 * @param {Record<string, any>} [options.values] initial values
 * @param {string[]} [options.hidden] names of fields that are not shown; their values are sent unchanged
 * @param {string} options.action label of the button
 * @param {(values: Record<string, any>) => Promise<void>} options.submit an error it throws is shown at its field
 */
export function schemaForm({ schema, values = {}, hidden = [], action, submit }) {
  const root = schema ?? {};
  const fields = propertiesOf(root, root, values, [], 0).filter((field) => !hidden.includes(field.name));
  const fixed = Object.fromEntries(hidden.filter((name) => name in values).map((name) => [name, values[name]]));
  const takesMore =
    schema === null || (fields.length === 0 && root.additionalProperties !== false && hidden.length === 0);
  const further = takesMore ? furtherField(values) : null;
  const errors = h("div", { class: "form-errors", role: "alert" });
  const button = h("button", { type: "submit", class: "primary" }, action);
  const form = h(
    "form",
    { class: "schema-form", novalidate: true },
    fields.map((field) => field.element),
    further?.element,
    errors,
    h("p", { class: "actions" }, button),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    /** @type {Problem[]} */
    const problems = [];
    const read = { ...fixed, ...valuesOf(fields, problems), ...(further ? further.read(problems) : {}) };
    fill(errors);
    if (problems.length) {
      fill(errors, h("p", {}, problems.length === 1 ? problems[0].message : `${problems.length} fields are invalid.`));
      problems[0].field.focus();
      return;
    }
    button.disabled = true;
    form.setAttribute("aria-busy", "true");
    try {
      await submit(read);
    } catch (error) {
      showRefusal(error.message, fields, errors);
      announce(error.message);
    } finally {
      button.disabled = false;
      form.removeAttribute("aria-busy");
    }
  });
  return form;
}

/**
 * Show the server's error at the fields it names, and as a whole.
 *
 * @param {string} message
 * @param {NamedField[]} fields
 * @param {HTMLElement} errors
 */
function showRefusal(message, fields, errors) {
  /** @type {Field[]} */
  const named = [];
  const visit = (/** @type {Field} */ field) => {
    const path = field.path.join(".");
    const found = message.match(
      new RegExp(`(?:^|[\\s;:'"(\`])${escaped(path)}['"\`]?: (.+?)(?=;|\\n|\\. Its fields|$)`, "u"),
    );
    for (const child of field.children) visit(child);
    if (found && !named.some((each) => each.path.join(".").startsWith(`${path}.`))) {
      field.complain(found[1]);
      named.push(field);
    }
  };
  fields.forEach(visit);
  named[0]?.focus();
  fill(errors, h("p", {}, message));
}

/** @param {string} text */
function escaped(text) {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

/** A JSON field for events that declare no fields. @param {Record<string, any>} values */
function furtherField(values) {
  const id = freshId("further");
  const input = h("textarea", { id, rows: "4", class: "code", spellcheck: "false", placeholder: '{"topic": "…"}' });
  const error = h("p", { class: "field-error", id: `${id}-error`, hidden: true });
  input.setAttribute("aria-describedby", `${id}-hint ${id}-error`);
  if (Object.keys(values).length) input.value = jsonText(values);
  const field = {
    element: h(
      "div",
      { class: "field" },
      h("div", { class: "label-row" }, h("label", { for: id }, "Fields"), h("span", { class: "kind" }, "JSON object")),
      h("p", { class: "hint", id: `${id}-hint` }, "This event declares no fields: any JSON object is accepted."),
      input,
      error,
    ),
    path: [],
    children: [],
    focus: () => input.focus(),
    complain: (/** @type {string | null} */ message) => {
      error.textContent = message ?? "";
      error.hidden = !message;
    },
    read: (/** @type {Problem[]} */ problems) => {
      let value = {};
      /** @type {string | null} */
      let problem = null;
      try {
        value = input.value.trim() === "" ? {} : JSON.parse(input.value);
        if (value === null || typeof value !== "object" || Array.isArray(value)) problem = "Must be a JSON object: {…}";
      } catch (reason) {
        problem = `Not valid JSON: ${reason.message}`;
      }
      field.complain(problem);
      if (problem) problems.push({ field, message: `Fields: ${problem}` });
      return problem ? {} : value;
    },
  };
  return field;
}
