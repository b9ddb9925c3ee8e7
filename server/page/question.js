// An open question of a run, answered in place; and a way to send any other event.

import { announce, fill, freshId, h, put } from "./dom.js";
import { post } from "./http.js";
import { shownValue } from "./json_view.js";
import { schemaForm } from "./schema_form.js";

/** The card of one question. @param sent called when an answer has been taken. */
export function questionCard(run, question, sent) {
  const id = freshId("question");
  const asked = question.asked;
  const card = h("section", { class: "panel question", "aria-labelledby": id, "data-question": question.id });
  put(
    card,
    h("p", { class: "eyebrow" }, h("span", { "aria-hidden": "true" }, "◔ "), `${question.step} waits for an answer`),
    h(
      "h2",
      { id },
      headline(asked) ?? `${question.step} waits for ${question.answers.map((each) => each.type).join(" or ")}`,
    ),
    rest(asked),
    answering(run, question, sent),
  );
  return card;
}

/** The text that a question most likely is: its only or its best known text field. */
const TELLING = ["question", "prompt", "text", "prefix", "message", "msg", "title"];

function tellingField(asked) {
  const texts = Object.entries(asked?.value ?? {}).filter(([, value]) => typeof value === "string" && value.trim());
  const known = TELLING.map((name) => texts.find(([each]) => each === name)).find(Boolean);
  return known ?? (texts.length === 1 ? texts[0] : null);
}

function headline(asked) {
  return tellingField(asked)?.[1] ?? null;
}

function rest(asked) {
  if (!asked) return null;
  if (asked.why_not) return shownValue(asked);
  const told = tellingField(asked)?.[0];
  const others = Object.entries(asked.value ?? {}).filter(([name]) => name !== told);
  if (others.length === 0) return null;
  return h(
    "dl",
    { class: "facts" },
    others.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, shownValue({ value }, 1)))),
  );
}

function answering(run, question, sent) {
  const place = h("div");
  const show = (answer) =>
    fill(
      place,
      schemaForm({
        schema: answer.schema,
        values: question.requirements,
        hidden: Object.keys(question.requirements),
        action: "Answer",
        submit: async (values) => {
          await send(run, answer, values);
          announce("The answer is sent.");
          sent();
        },
      }),
    );
  show(question.answers[0]);
  return [question.answers.length > 1 ? chooser(question.answers, show) : null, place].filter(Boolean);
}

/** Send any event that the workflow knows. */
export function sendPanel(run, sent) {
  const place = h("div");
  const note = h("p", { role: "status", class: "muted" });
  const show = (event) =>
    fill(
      place,
      schemaForm({
        schema: event.schema,
        action: `Send ${event.type}`,
        submit: async (values) => {
          await send(run, event, values);
          note.textContent = `${event.type} is sent.`;
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

function chooser(events, show) {
  const id = freshId("event");
  const select = h("select", { id, onchange: () => show(events[Number(select.value)]) });
  events.forEach((event, at) => select.append(h("option", { value: String(at) }, event.type)));
  return h("div", { class: "field" }, h("label", { for: id }, "Event"), select);
}

async function send(run, event, values) {
  const envelope = { type: event.type, qualified_name: event.qualified_name, value: values };
  await post(`console/runs/${encodeURIComponent(run.run_id)}/send`, envelope);
}
