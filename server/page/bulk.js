// The same action for many runs, a few at a time, with progress and what was refused.

import { announce, h } from "./dom.js";
import { confirmed, openDialog } from "./dialogs.js";
import { count } from "./format.js";
import { post } from "./http.js";

/** Requests that are under way at once. */
const AT_ONCE = 4;

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
  const bar = h("progress", { max: ids.length, value: 0, "aria-label": "Progress" });
  const line = h("p", { role: "status" });
  const problems = h("ul", { class: "bulk-problems" });
  let isStopped = false;
  let done = 0;
  let refused = 0;
  const button = h("button", { type: "button", onclick: () => dialog.close() }, "Stop");
  const dialog = openDialog(`${verb} ${count(ids.length, "run")}`, "bulk", () => [
    bar,
    line,
    problems,
    h("p", { class: "actions" }, button),
  ]);
  dialog.addEventListener("close", () => (isStopped = true));
  const left = [...ids];
  const show = () => {
    bar.value = done;
    line.textContent = `${done} of ${ids.length}${refused ? `, ${refused} refused` : ""}`;
  };
  const work = async () => {
    for (let id = left.shift(); id !== undefined && !isStopped; id = left.shift()) {
      try {
        await post(`console/runs/${encodeURIComponent(id)}/${what}`);
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
  if (refused === 0) dialog.close();
  else button.textContent = "Close";
  return true;
}
