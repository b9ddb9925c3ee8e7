// Going on from a point of a run's past: a fork or a rewind, after edits of its state and events.

import { confirmed } from "./dialogs.js";
import { announce, h } from "./dom.js";
import { post } from "./http.js";
import { jsonText } from "./json_view.js";

/**
 * Fork and rewind, with an editor for the state and the events of the live work.
 *
 * @param {string} path of the run's data
 * @param {import("./history_view.js").PastRun} past
 * @param {{isOpen: boolean, rewound: () => void, problem: HTMLElement}} options whether the editor is open; what to do
 *   once the run was put back; where a refusal is shown
 */
export function goOn(path, past, { isOpen, rewound, problem }) {
  const state = area(
    "State",
    Object.fromEntries(past.state.filter((each) => !each.why_not).map((each) => [each.key, each.value])),
  );
  const editable = past.items.filter((item) => !item.is_gathering && item.events[0] && !item.events[0].why_not);
  const events = editable.map((item) => ({
    item,
    ...area(`Event of ${item.step}: ${item.events[0].type}`, item.events[0].value),
  }));
  const reuse = h("input", { type: "checkbox" });

  function edits() {
    /** @type {Record<string, any>} */
    const body = { seq: past.seq };
    const wanted = state.read();
    if (wanted !== undefined) {
      const removed = past.state
        .filter((each) => !each.why_not && !(each.key in wanted))
        .map((each) => [each.key, null]);
      body.state = { ...wanted, ...Object.fromEntries(removed) };
    }
    for (const { item, read } of events) {
      const fields = read();
      if (fields !== undefined) body.events = { ...body.events, [item.work_id]: fields };
    }
    return body;
  }

  /** @param {string} what @param {Record<string, any>} more @param {(answer: any) => void} then */
  async function send(what, more, then) {
    problem.textContent = "";
    try {
      then(await post(`${path}/${what}`, { ...edits(), ...more }));
    } catch (error) {
      problem.textContent = error.message;
    }
  }

  function fork() {
    const more = reuse.checked ? { reuse: "recorded" } : {};
    send("fork", more, ({ run_id: id }) => (location.hash = `#/runs/${encodeURIComponent(id)}`));
  }

  async function rewind() {
    const text =
      "The run itself goes on from here. What it is executing is stopped; what was published stays published.";
    if (await confirmed(`Rewind this run to point ${past.seq}?`, text, "Rewind", true))
      send("rewind", {}, () => {
        announce("Rewound.");
        rewound();
      });
  }

  return h(
    "div",
    { class: "go-on" },
    h(
      "details",
      { open: isOpen },
      h("summary", {}, "Edit state and events"),
      h("p", { class: "muted" }, "JSON. What is not changed stays as it was."),
      events.map((each) => each.element),
      state.element,
    ),
    h(
      "p",
      { class: "actions" },
      h("button", { type: "button", class: "primary", onclick: fork }, "Fork from here"),
      h("button", { type: "button", onclick: rewind }, "Rewind to here"),
      h(
        "label",
        {
          class: "inline-label",
          title: "Steps whose events and reads are the same are not executed again: the fork takes what was recorded.",
        },
        reuse,
        " Fork takes recorded outcomes",
      ),
    ),
  );
}

/** A text area with JSON; `read` gives the value if it was changed. @param {string} label @param {any} value */
function area(label, value) {
  const text = jsonText(value);
  const input = h("textarea", {
    class: "code",
    rows: String(Math.min(12, text.split("\n").length + 1)),
    spellcheck: "false",
  });
  input.value = text;
  const element = h("label", { class: "field" }, h("span", {}, label), input);
  return {
    element,
    read: () => {
      if (input.value === text) return undefined;
      try {
        return JSON.parse(input.value);
      } catch (error) {
        throw new Error(`${label}: not valid JSON: ${error.message}`, { cause: error });
      }
    },
  };
}
