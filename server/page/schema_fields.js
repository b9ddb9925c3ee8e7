// One input per JSON schema.

/**
 * @typedef {import("./field_frame.js").Facts} Facts
 * @typedef {import("./field_frame.js").Field} Field
 * @typedef {import("./field_frame.js").NamedField} NamedField
 * @typedef {import("./field_frame.js").Problem} Problem
 */

import { freshId, h, put } from "./dom.js";
import { labelled, reading, UNSET } from "./field_frame.js";
import { count } from "./format.js";
import { jsonText } from "./json_view.js";

/**
 * A schema without `$ref`, and whether null is allowed: pydantic writes `X | None` as `anyOf`.
 *
 * @param {Schema} schema
 * @param {Schema} root
 * @returns {{schema: Schema, nullable: boolean}}
 */
export function resolved(schema, root) {
  let found = schema ?? {};
  for (let hops = 0; found.$ref && hops < 20; hops += 1) {
    const target = found.$ref
      .split("/")
      .slice(1)
      .reduce(
        (/** @type {any} */ at, /** @type {string} */ key) => at?.[key.replaceAll("~1", "/").replaceAll("~0", "~")],
        root,
      );
    found = { ...(target ?? {}), ...without(found, "$ref") };
  }
  if (found.allOf?.length === 1) found = { ...resolved(found.allOf[0], root).schema, ...without(found, "allOf") };
  if (Array.isArray(found.anyOf)) {
    const real = found.anyOf.filter((each) => each.type !== "null");
    if (real.length === 1 && real.length < found.anyOf.length) {
      const inner = resolved(real[0], root).schema;
      return { schema: { ...inner, ...without(found, "anyOf") }, nullable: true };
    }
  }
  return { schema: found, nullable: false };
}

/** @param {Schema} object @param {string} key */
function without(object, key) {
  const { [key]: _, ...rest } = object;
  return rest;
}

/** Nested forms deeper than this are written as JSON: a schema may contain itself. */
const DEEPEST = 5;

/**
 * The field for a schema.
 *
 * @param {Schema} given
 * @param {Schema} root the schema that `$ref` refers to
 * @param {any} value its initial value
 * @param {Facts} about
 * @returns {Field}
 */
export function fieldFor(given, root, value, about) {
  const { schema, nullable } = resolved(given, root);
  const facts = { ...about, optional: !about.required || nullable, nullable };
  const initial = value === undefined ? schema.default : value;
  if (schema.const !== undefined) return choice([schema.const], schema, schema.const, facts);
  if (Array.isArray(schema.enum)) return choice(schema.enum, schema, initial, facts);
  if (schema.type === "boolean")
    return nullable ? choice([true, false], schema, initial, facts) : toggle(schema, initial, facts);
  if (schema.type === "integer" || schema.type === "number") return number(schema, initial, facts);
  if (schema.type === "string") return text(schema, initial, facts);
  if (about.depth < DEEPEST && schema.type === "object" && schema.properties)
    return nested(schema, root, initial, facts);
  if (about.depth < DEEPEST && schema.type === "array" && schema.items && !schema.prefixItems)
    return list(schema, root, initial, facts);
  return json(schema, initial, facts);
}

function text(schema, initial, facts) {
  const isLong = schema.format === undefined && ((schema.maxLength ?? 0) > 200 || String(initial ?? "").includes("\n"));
  const input = isLong
    ? h("textarea", { rows: "4" })
    : h("input", { type: INPUT_TYPES[schema.format] ?? "text", spellcheck: "false" });
  input.value = initial ?? "";
  if (EXAMPLES[schema.format]) input.placeholder = EXAMPLES[schema.format];
  return reading(labelled(input, schema, facts), facts, () => {
    const value = input.value;
    if (value === "") {
      if (facts.nullable) return { value: facts.required ? null : UNSET };
      if (!facts.required && schema.default === undefined) return { value: UNSET };
      if (facts.required) return { value, problem: "Required" };
    }
    if (schema.minLength > value.length) return { value, problem: `At least ${count(schema.minLength, "character")}` };
    if (schema.maxLength < value.length) return { value, problem: `At most ${count(schema.maxLength, "character")}` };
    if (schema.pattern && !matches(schema.pattern, value)) return { value, problem: `Must match ${schema.pattern}` };
    return { value };
  });
}

/** Examples of each format. @type {Record<string, string>} */
const EXAMPLES = {
  "date-time": "2026-01-31T09:30:00Z",
  time: "09:30:00",
  duration: "P1DT2H",
  uuid: "00000000-0000-4000-8000-000000000000",
};

/** Format -> type of the input. @type {Record<string, string>} */
const INPUT_TYPES = { date: "date", email: "email", password: "password", uri: "url" };

function matches(pattern, value) {
  try {
    return new RegExp(pattern, "u").test(value);
  } catch {
    return true; // not every Python expression is valid in JavaScript: the server decides
  }
}

function number(schema, initial, facts) {
  const isWhole = schema.type === "integer";
  const input = h("input", {
    type: "text",
    inputmode: isWhole ? "numeric" : "decimal",
    spellcheck: "false",
    class: "number",
  });
  input.value = initial ?? "";
  return reading(labelled(input, schema, facts), facts, () => {
    const typed = input.value.trim();
    if (typed === "") {
      if (facts.required && !facts.nullable) return { value: UNSET, problem: "Required" };
      return { value: facts.nullable && facts.required ? null : UNSET };
    }
    const value = Number(typed);
    if (!Number.isFinite(value)) return { value, problem: `Not a number: ${typed}` };
    if (isWhole && !/^[+-]?\d+$/.test(typed)) return { value, problem: "Must be a whole number" };
    if (isWhole && !Number.isSafeInteger(value))
      return { value, problem: "Too large for this page: send it over the HTTP API" };
    const problem = beyond(schema, value);
    return { value, problem };
  });
}

function beyond(schema, value) {
  if (value < schema.minimum) return `Must be at least ${schema.minimum}`;
  if (value > schema.maximum) return `Must be at most ${schema.maximum}`;
  if (value <= schema.exclusiveMinimum) return `Must be more than ${schema.exclusiveMinimum}`;
  if (value >= schema.exclusiveMaximum) return `Must be less than ${schema.exclusiveMaximum}`;
  return undefined;
}

function toggle(schema, initial, facts) {
  if (initial === undefined && facts.required) return yesOrNo(schema, facts);
  const input = h("input", { type: "checkbox", checked: initial === true });
  // Unchecked is a value too: a checkbox is neither required nor optional.
  const field = labelled(input, schema, { ...facts, hasAnswer: true }, { inline: true });
  return reading(field, facts, () => ({ value: input.checked }));
}

/** A yes or no that somebody has to choose: nothing is assumed. */
function yesOrNo(schema, facts) {
  const name = freshId("choice");
  const made = [
    [true, "Yes"],
    [false, "No"],
  ].map(([value, word]) => {
    const input = h("input", { type: "radio", name, value: String(value), oninput: () => complain(null) });
    return { value, input, element: h("label", { class: "inline-label" }, input, String(word)) };
  });
  const error = h("p", { class: "field-error", id: `${name}-error`, hidden: true });
  const complain = (/** @type {string | null} */ message) => {
    error.textContent = message ?? "";
    error.hidden = !message;
    for (const { input } of made) {
      if (message) input.setAttribute("aria-invalid", "true");
      else input.removeAttribute("aria-invalid");
    }
  };
  const element = h(
    "fieldset",
    { class: "field yes-no", "aria-describedby": `${name}-error` },
    h("legend", {}, facts.title, h("span", { class: "required", "aria-hidden": "true" }, "*")),
    schema.description ? h("p", { class: "hint" }, schema.description) : null,
    h(
      "div",
      { class: "options" },
      made.map((each) => each.element),
    ),
    error,
  );
  const field = { element, complain, focus: () => made[0].input.focus(), path: facts.path, children: [] };
  return reading(field, facts, () => {
    const chosen = made.find(({ input }) => input.checked);
    return chosen ? { value: chosen.value } : { value: undefined, problem: "Choose yes or no" };
  });
}

function choice(options, schema, initial, facts) {
  const select = h("select");
  if (facts.optional || initial === undefined)
    select.append(h("option", { value: "" }, facts.optional ? "–" : "Choose …"));
  options.forEach((option, at) => select.append(h("option", { value: String(at + 1) }, String(option))));
  const known = options.findIndex((option) => option === initial);
  select.value = known < 0 ? (select.options[0]?.value ?? "") : String(known + 1);
  return reading(labelled(select, { ...schema, type: undefined }, facts), facts, () => {
    if (select.value !== "") return { value: options[Number(select.value) - 1] };
    if (facts.required && !facts.nullable) return { value: UNSET, problem: "Choose a value" };
    return { value: facts.nullable && facts.required ? null : UNSET };
  });
}

function json(schema, initial, facts) {
  const input = h("textarea", { rows: "3", spellcheck: "false", class: "code", placeholder: "JSON" });
  input.value = initial === undefined || initial === null ? "" : jsonText(initial);
  return reading(labelled(input, { ...schema, format: "JSON" }, facts), facts, () => {
    if (input.value.trim() === "") {
      if (facts.required && !facts.nullable) return { value: UNSET, problem: "Required: enter JSON" };
      return { value: facts.nullable && facts.required ? null : UNSET };
    }
    try {
      return { value: JSON.parse(input.value) };
    } catch (error) {
      return { value: UNSET, problem: `Not valid JSON: ${error.message}` };
    }
  });
}

/** A fieldset with a field for each property. */
function nested(schema, root, initial, facts) {
  const body = h(
    "fieldset",
    { class: "nested" },
    h("legend", {}, facts.title, h("span", { class: "kind" }, facts.optional ? "optional" : "")),
  );
  if (schema.description) put(body, h("p", { class: "hint" }, schema.description));
  const fields = propertiesOf(schema, root, initial ?? {}, facts.path, facts.depth + 1);
  const inner = h(
    "div",
    { class: "nested-fields" },
    fields.map((each) => each.element),
  );
  const isSet = h("input", {
    type: "checkbox",
    checked: !facts.optional || (initial !== undefined && initial !== null),
    onchange: () => (inner.hidden = !isSet.checked),
  });
  if (facts.optional) {
    inner.hidden = !isSet.checked;
    put(body, h("label", { class: "inline-label" }, isSet, ` Set ${facts.title}`));
  }
  put(body, inner);
  return {
    element: body,
    path: facts.path,
    children: fields,
    complain: () => {},
    focus: () => fields[0]?.focus(),
    read: (/** @type {Problem[]} */ problems) =>
      isSet.checked ? valuesOf(fields, problems) : facts.nullable && facts.required ? null : UNSET,
  };
}

/** A list of fields that grows and shrinks. */
function list(schema, root, initial, facts) {
  /** @type {{field: Field, row: HTMLElement}[]} */
  const items = [];
  const rows = h("div", { class: "list-items" });
  const error = h("p", { class: "field-error", hidden: true });
  const add = (/** @type {any} */ value) => {
    const at = items.length;
    const about = {
      name: String(at),
      title: `${facts.title} ${at + 1}`,
      path: [...facts.path, at],
      required: true,
      depth: facts.depth + 1,
    };
    const field = fieldFor(schema.items, root, value, about);
    const remove = h("button", { type: "button", class: "quiet", "aria-label": `Remove ${about.title}` }, "Remove");
    const row = h("div", { class: "list-item" }, field.element, remove);
    const item = { field, row };
    remove.addEventListener("click", () => {
      items.splice(items.indexOf(item), 1);
      row.remove();
      more.focus();
    });
    items.push(item);
    rows.append(row);
    return field;
  };
  const more = h(
    "button",
    { type: "button", class: "quiet", onclick: () => add(undefined).focus() },
    `Add to ${facts.title}`,
  );
  for (const value of Array.isArray(initial) ? initial : []) add(value);
  const kind = h("span", { class: "kind" }, `list${facts.optional ? ", optional" : ""}`);
  const element = h(
    "fieldset",
    { class: "nested" },
    h("legend", {}, facts.title, kind),
    schema.description ? h("p", { class: "hint" }, schema.description) : null,
    rows,
    more,
    error,
  );
  /** @type {Field} */
  const field = {
    element,
    path: facts.path,
    get children() {
      return items.map((item) => item.field);
    },
    complain: (message) => {
      error.textContent = message ?? "";
      error.hidden = !message;
    },
    focus: () => more.focus(),
    read: (problems) => {
      const values = items.map((item) => item.field.read(problems)).map((value) => (value === UNSET ? null : value));
      /** @type {string | null} */
      let problem = null;
      if (values.length < schema.minItems) problem = `At least ${count(schema.minItems, "item")}`;
      if (values.length > schema.maxItems) problem = `At most ${count(schema.maxItems, "item")}`;
      field.complain(problem);
      if (problem) problems.push({ field, message: `${facts.title}: ${problem}` });
      if (values.length === 0 && !facts.required)
        return schema.default === undefined || facts.nullable ? UNSET : values;
      return values;
    },
  };
  return field;
}

/**
 * A field for each property of an object schema, in their order.
 *
 * @param {Schema} schema
 * @param {Schema} root
 * @param {Record<string, any>} values initial values
 * @param {(string | number)[]} path
 * @param {number} depth
 * @returns {NamedField[]}
 */
export function propertiesOf(schema, root, values, path, depth) {
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties ?? {}).map(([name, each]) => {
    const about = { name, title: name, path: [...path, name], required: required.has(name), depth };
    return Object.assign(fieldFor(each, root, values?.[name], about), { name });
  });
}

/** The values of the fields without those left empty. @param {NamedField[]} fields @param {Problem[]} problems */
export function valuesOf(fields, problems) {
  /** @type {Record<string, any>} */
  const values = {};
  for (const field of fields) {
    const value = field.read(problems);
    if (value !== UNSET) values[field.name] = value;
  }
  return values;
}
