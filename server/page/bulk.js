// The same action for many runs, a few at a time, with progress and what was refused.

import { announce, h, put } from "./dom.js";
import { confirmed, openDialog } from "./dialogs.js";
import { count } from "./format.js";
import { parsed, post } from "./http.js";

/** Requests that are under way at once. */
const AT_ONCE = 4;
/** Forks that are linked to at the end. */
const LINKED = 20;

/** @type {Record<string, {verb: string, danger?: boolean, statuses: string[], text: string}>} */
export const BULK = {
  retry: {
    verb: "Retry",
    statuses: ["failed", "timed_out", "cancelled"],
    text: "Their unfinished steps run again; finished steps are kept.",
  },
  cancel: {
    verb: "Cancel",
    danger: true,
    statuses: ["running"],
    text: "Running steps will be interrupted. Cancelled runs can be retried.",
  },
};

/**
 * Ask, then do it. Gives whether anything was done.
 *
 * @param {"retry" | "cancel"} what
 * @param {string[]} ids
 */
export async function inBulk(what, ids) {
  const { verb, text, danger } = BULK[what];
  if (ids.length === 0 || !(await confirmed(`${verb} ${count(ids.length, "run")}?`, text, verb, danger))) return false;
  await forEach(`${verb} ${count(ids.length, "run")}`, ids, (id) =>
    post(`console/runs/${encodeURIComponent(id)}/${what}`),
  );
  return true;
}

/**
 * Fork failed runs before the step that each failed on, after the same edit. Gives whether anything was done.
 *
 * @param {string[]} ids
 */
export async function forkInBulk(ids) {
  const body = ids.length ? await askForEdits(ids.length) : null;
  if (body === null) return false;
  /** @type {string[]} */
  const made = [];
  await forEach(
    `Fork ${count(ids.length, "run")}`,
    ids,
    async (id) => made.push((await post(`console/runs/${encodeURIComponent(id)}/fork`, body)).run_id),
    () => [
      h("p", {}, `${count(made.length, "fork")} started.`),
      h(
        "p",
        { class: "run-links" },
        made
          .slice(0, LINKED)
          .map((id) => h("a", { href: `#/runs/${encodeURIComponent(id)}`, class: "id" }, id.slice(0, 8))),
        made.length > LINKED ? h("span", { class: "muted" }, `and ${made.length - LINKED} more`) : null,
      ),
    ],
  );
  return true;
}

/** What each run is forked with; null if nothing is to be done. @param {number} number @returns {Promise<any>} */
function askForEdits(number) {
  const area = (/** @type {string} */ label) => {
    const input = h("textarea", { class: "code", rows: "3", spellcheck: "false", placeholder: "{}" });
    return { input, element: h("label", { class: "field" }, h("span", {}, label), input), label };
  };
  const fields = area("Fields of that step’s event to replace");
  const state = area("Keys of ctx.store to change");
  const reuse = h("input", { type: "checkbox" });
  const problem = h("p", { class: "field-error", role: "alert" });
  return new Promise((resolve) => {
    /** @type {any} */
    let body = null;
    const dialog = openDialog(`Fork ${count(number, "run")}?`, "bulk-fork", (close) => {
      const agree = () => {
        try {
          body = { before: "failure", ...read("fields", fields), ...read("state", state) };
          if (reuse.checked) body.reuse = "recorded";
          close();
        } catch (error) {
          problem.textContent = error.message;
        }
      };
      return [
        h(
          "p",
          {},
          "For each, another run goes on from before the step that failed. The failed run stays as it is. JSON, if anything is to be changed:",
        ),
        fields.element,
        state.element,
        h("label", { class: "inline-label" }, reuse, " Take recorded outcomes where nothing has changed"),
        problem,
        h(
          "p",
          { class: "actions" },
          h("button", { type: "button", class: "primary", onclick: agree }, "Fork"),
          h("button", { type: "button", onclick: close }, "Back"),
        ),
      ];
    });
    dialog.addEventListener("close", () => resolve(body));
  });
}

/** @param {string} name @param {{input: HTMLTextAreaElement, label: string}} from */
function read(name, { input, label }) {
  const text = input.value.trim();
  if (!text) return {};
  const value = parsed(text);
  if (value === null || typeof value !== "object" || Array.isArray(value))
    throw new Error(`${label}: expected a JSON object.`);
  return { [name]: value };
}

/**
 * Do something for each run, with progress; the dialog stays open if something was refused, or if there is more to say.
 *
 * @param {string} title
 * @param {string[]} ids
 * @param {(id: string) => Promise<any>} act
 * @param {() => any} [more] what to say at the end
 */
async function forEach(title, ids, act, more) {
  const bar = h("progress", { max: ids.length, value: 0, "aria-label": "Progress" });
  const line = h("p", { role: "status" });
  const problems = h("ul", { class: "bulk-problems" });
  const end = h("div", {
    onclick: (event) => {
      if (event.target instanceof HTMLAnchorElement) dialog.close();
    },
  });
  let isStopped = false;
  let done = 0;
  let refused = 0;
  const button = h("button", { type: "button", onclick: () => dialog.close() }, "Stop");
  const dialog = openDialog(title, "bulk", () => [bar, line, problems, end, h("p", { class: "actions" }, button)]);
  dialog.addEventListener("close", () => (isStopped = true));
  const left = [...ids];
  const show = () => {
    bar.value = done;
    line.textContent = `${done} of ${ids.length}${refused ? `, ${refused} refused` : ""}`;
  };
  const work = async () => {
    for (let id = left.shift(); id !== undefined && !isStopped; id = left.shift()) {
      try {
        await act(id);
      } catch (error) {
        refused += 1;
        if (refused <= 20) problems.append(h("li", {}, error.message));
      }
      done += 1;
      show();
    }
  };
  show();
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  announce(line.textContent ?? "");
  button.textContent = "Close";
  if (more) put(end, more());
  else if (refused === 0) dialog.close();
}
