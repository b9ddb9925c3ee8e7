// The open questions of a run, answered in place; and a form to send any other event.

import { announce, fill, freshId, h, put } from "./dom.js";
import { duration, instant } from "./format.js";
import { post } from "./http.js";
import { shownValue } from "./json_view.js";
import { schemaForm } from "./schema_form.js";

/**
 * The card of one question.
 *
 * @param {Run} run
 * @param {Question} question
 * @param {() => void} sent called when the server has accepted an answer
 */
export function questionCard(run, question, sent) {
  const id = freshId("question");
  const asked = question.asked;
  const card = h("section", { class: "panel question", "aria-labelledby": id, "data-question": question.id });
  put(
    card,
    h(
      "p",
      { class: "eyebrow" },
      h("span", { "aria-hidden": "true" }, "◔ "),
      `${question.step} is waiting for an answer`,
      question.until === null ? null : timeLimit(run, question.until),
    ),
    h(
      "h2",
      { id },
      headline(asked) ?? `${question.step} is waiting for ${question.answers.map((each) => each.type).join(" or ")}`,
    ),
    rest(asked),
    answering(run, question, sent),
  );
  return card;
}

/** Until when it waits; the page counts down. @param {Run} run @param {number} until */
function timeLimit(run, until) {
  const at = until - (run.now - Date.now());
  const left = h("time", { datetime: new Date(at).toISOString(), title: instant(at) });
  const tick = () => (left.textContent = at > Date.now() ? duration(at - Date.now()) : "over");
  tick();
  const timer = setInterval(() => (left.isConnected ? tick() : clearInterval(timer)), 1000);
  return h("span", { class: "time-limit" }, " · time left: ", left);
}

/** Names of the field that most likely holds the question; otherwise it is the only text field. */
const QUESTION_FIELDS = ["question", "prompt", "text", "prefix", "message", "msg", "title"];

/** @param {ShownEvent | null} asked */
function questionField(asked) {
  const texts = Object.entries(asked?.value ?? {}).filter(([, value]) => typeof value === "string" && value.trim());
  const known = QUESTION_FIELDS.map((name) => texts.find(([each]) => each === name)).find(Boolean);
  return known ?? (texts.length === 1 ? texts[0] : null);
}

/** @param {ShownEvent | null} asked @returns {string | null} */
function headline(asked) {
  return questionField(asked)?.[1] ?? null;
}

/** @param {ShownEvent | null} asked */
function rest(asked) {
  if (!asked) return null;
  if (asked.why_not) return shownValue(asked);
  const shown = questionField(asked)?.[0];
  const others = Object.entries(asked.value ?? {}).filter(([name]) => name !== shown);
  if (others.length === 0) return null;
  return h(
    "dl",
    { class: "facts" },
    others.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, shownValue({ value }, 1)))),
  );
}

/** @param {Run} run @param {Question} question @param {() => void} sent */
function answering(run, question, sent) {
  const place = h("div");
  const show = (/** @type {EventClass} */ answer) =>
    fill(
      place,
      schemaForm({
        schema: answer.schema,
        values: question.requirements,
        hidden: Object.keys(question.requirements),
        action: "Answer",
        submit: async (values) => {
          await send(run, answer, values);
          announce("Answer sent.");
          sent();
        },
      }),
    );
  show(question.answers[0]);
  return [question.answers.length > 1 ? chooser(question.answers, show) : null, place].filter(Boolean);
}

/** A form to send any event of the workflow. @param {Run} run @param {() => void} sent */
export function sendPanel(run, sent) {
  const place = h("div");
  const note = h("p", { role: "status", class: "muted" });
  const show = (/** @type {EventClass} */ event) =>
    fill(
      place,
      schemaForm({
        schema: event.schema,
        action: `Send ${event.type}`,
        submit: async (values) => {
          await send(run, event, values);
          note.textContent = `${event.type} sent.`;
          sent();
        },
      }),
    );
  const events = run.sendable;
  if (events.length) show(events[0]);
  return h(
    "details",
    { class: "panel send" },
    h("summary", {}, "Send an event"),
    events.length > 1 ? chooser(events, show) : null,
    place,
    note,
  );
}

/** @param {EventClass[]} events @param {(event: EventClass) => void} show */
function chooser(events, show) {
  const id = freshId("event");
  const select = h("select", { id, onchange: () => show(events[Number(select.value)]) });
  events.forEach((event, at) => select.append(h("option", { value: String(at) }, event.type)));
  return h("div", { class: "field" }, h("label", { for: id }, "Event"), select);
}

/** @param {Run} run @param {EventClass} event @param {Record<string, any>} values */
async function send(run, event, values) {
  const envelope = { type: event.type, qualified_name: event.qualified_name, value: values };
  await post(`console/runs/${encodeURIComponent(run.run_id)}/send`, envelope);
}
