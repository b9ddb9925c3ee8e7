// One input per JSON schema. A field has an `element`, and `read(problems)`, which gives its value or UNSET.

import { freshId, h, put } from "./dom.js";
import { jsonText } from "./json_view.js";

/** What a field gives that was left empty. */
export const UNSET = Symbol("unset");

/** A schema without `$ref`, and whether null is allowed: pydantic writes `X | None` as `anyOf`. */
export function resolved(schema, root) {
  let found = schema ?? {};
  for (let hops = 0; found.$ref && hops < 20; hops += 1) {
    const target = found.$ref
      .split("/")
      .slice(1)
      .reduce((at, key) => at?.[key.replaceAll("~1", "/").replaceAll("~0", "~")], root);
    const { $ref, ...beside } = found;
    found = { ...(target ?? {}), ...beside };
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

function without(object, key) {
  const { [key]: _, ...rest } = object;
  return rest;
}

/** Nested forms deeper than this are written as JSON: a schema may contain itself. */
const DEEPEST = 5;

/** The field for a schema. @param about {name, title, path, required, depth}. */
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

// -- scaffolding --------------------------------------------------------------------------------------------------

/** Label, description and place for an error around an input. */
function labelled(input, schema, facts, { inline = false } = {}) {
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
  const complain = (message) => {
    error.textContent = message ?? "";
    error.hidden = !message;
    if (message) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
  };
  input.addEventListener("input", () => complain(null));
  return { element, complain, focus: () => input.focus(), path: facts.path, children: [] };
}

function kindOf(schema, facts) {
  const words = [schema.format ?? (Array.isArray(schema.enum) || schema.const !== undefined ? null : schema.type)];
  if (facts.optional && !facts.hasAnswer) words.push("optional");
  return words.filter(Boolean).join(", ");
}

/** `read` that tells problems at the field. */
function reading(field, facts, look) {
  field.read = (problems) => {
    const { value, problem } = look();
    field.complain(problem ?? null);
    if (problem) problems.push({ field, message: `${facts.title}: ${problem}` });
    return value;
  };
  return field;
}

// -- kinds --------------------------------------------------------------------------------------------------------

function text(schema, initial, facts) {
  const isLong = schema.format === undefined && ((schema.maxLength ?? 0) > 200 || String(initial ?? "").includes("\n"));
  const input = isLong
    ? h("textarea", { rows: "4" })
    : h("input", { type: typeOf(schema.format), spellcheck: "false" });
  input.value = initial ?? "";
  if (EXAMPLES[schema.format]) input.placeholder = EXAMPLES[schema.format];
  return reading(labelled(input, schema, facts), facts, () => {
    const value = input.value;
    if (value === "") {
      if (facts.nullable) return { value: facts.required ? null : UNSET };
      if (!facts.required && schema.default === undefined) return { value: UNSET };
      if (facts.required) return { value, problem: "is required." };
    }
    if (schema.minLength > value.length) return { value, problem: `needs at least ${schema.minLength} characters.` };
    if (schema.maxLength < value.length) return { value, problem: `takes at most ${schema.maxLength} characters.` };
    if (schema.pattern && !matches(schema.pattern, value)) return { value, problem: `has to match ${schema.pattern}` };
    return { value };
  });
}

/** How texts of a format are written. */
const EXAMPLES = {
  "date-time": "2026-01-31T09:30:00Z",
  time: "09:30:00",
  duration: "P1DT2H",
  uuid: "00000000-0000-4000-8000-000000000000",
};

function typeOf(format) {
  return { date: "date", email: "email", password: "password", uri: "url" }[format] ?? "text";
}

function matches(pattern, value) {
  try {
    return new RegExp(pattern, "u").test(value);
  } catch {
    return true; // Python's expressions are not all JavaScript's: the server decides
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
    const given = input.value.trim();
    if (given === "") {
      if (facts.required && !facts.nullable) return { value: UNSET, problem: "is required." };
      return { value: facts.nullable && facts.required ? null : UNSET };
    }
    const value = Number(given);
    if (!Number.isFinite(value)) return { value, problem: `is no number: ${given}` };
    if (isWhole && !/^[+-]?\d+$/.test(given)) return { value, problem: "has to be a whole number." };
    if (isWhole && !Number.isSafeInteger(value))
      return { value, problem: "is too large for this page; send it by a program." };
    const problem = beyond(schema, value);
    return { value, problem };
  });
}

function beyond(schema, value) {
  if (value < schema.minimum) return `has to be at least ${schema.minimum}.`;
  if (value > schema.maximum) return `has to be at most ${schema.maximum}.`;
  if (value <= schema.exclusiveMinimum) return `has to be more than ${schema.exclusiveMinimum}.`;
  if (value >= schema.exclusiveMaximum) return `has to be less than ${schema.exclusiveMaximum}.`;
  return undefined;
}

function toggle(schema, initial, facts) {
  const input = h("input", { type: "checkbox", checked: initial === true });
  // Unticked is an answer: a checkbox is neither required nor optional.
  const field = labelled(input, schema, { ...facts, hasAnswer: true }, { inline: true });
  return reading(field, facts, () => ({ value: input.checked }));
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
    if (facts.required && !facts.nullable) return { value: UNSET, problem: "has to be chosen." };
    return { value: facts.nullable && facts.required ? null : UNSET };
  });
}

function json(schema, initial, facts) {
  const input = h("textarea", { rows: "3", spellcheck: "false", class: "code", placeholder: "JSON" });
  input.value = initial === undefined || initial === null ? "" : jsonText(initial);
  return reading(labelled(input, { ...schema, format: "JSON" }, facts), facts, () => {
    if (input.value.trim() === "") {
      if (facts.required && !facts.nullable) return { value: UNSET, problem: "is required: write JSON." };
      return { value: facts.nullable && facts.required ? null : UNSET };
    }
    try {
      return { value: JSON.parse(input.value) };
    } catch (error) {
      return { value: UNSET, problem: `is no JSON: ${error.message}` };
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
  let isGiven = { checked: true };
  if (facts.optional) {
    isGiven = h("input", {
      type: "checkbox",
      checked: initial !== undefined && initial !== null,
      onchange: () => (inner.hidden = !isGiven.checked),
    });
    inner.hidden = !isGiven.checked;
    put(body, h("label", { class: "inline-label" }, isGiven, ` give ${facts.title}`));
  }
  put(body, inner);
  return {
    element: body,
    path: facts.path,
    children: fields,
    complain: () => {},
    focus: () => fields[0]?.focus(),
    read: (problems) =>
      isGiven.checked ? valuesOf(fields, problems) : facts.nullable && facts.required ? null : UNSET,
  };
}

/** A list of fields that grows and shrinks. */
function list(schema, root, initial, facts) {
  const items = [];
  const rows = h("div", { class: "list-items" });
  const error = h("p", { class: "field-error", hidden: true });
  const add = (value) => {
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
      let problem = null;
      if (values.length < schema.minItems) problem = `needs at least ${schema.minItems}.`;
      if (values.length > schema.maxItems) problem = `takes at most ${schema.maxItems}.`;
      field.complain(problem);
      if (problem) problems.push({ field, message: `${facts.title}: ${problem}` });
      if (values.length === 0 && !facts.required)
        return schema.default === undefined || facts.nullable ? UNSET : values;
      return values;
    },
  };
  return field;
}

/** A field for each property of an object schema, in their order. */
export function propertiesOf(schema, root, values, path, depth) {
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties ?? {}).map(([name, each]) => {
    const about = { name, title: name, path: [...path, name], required: required.has(name), depth };
    return Object.assign(fieldFor(each, root, values?.[name], about), { name });
  });
}

/** What the fields say, without those that were left empty. */
export function valuesOf(fields, problems) {
  const values = {};
  for (const field of fields) {
    const value = field.read(problems);
    if (value !== UNSET) values[field.name] = value;
  }
  return values;
}
