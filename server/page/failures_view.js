// Failed runs and parked work, in groups of the same cause, with what can be done about a whole group.

import { forkInBulk, inBulk } from "./bulk.js";
import { blank, fill, h, panel } from "./dom.js";
import { count, short, timeAgo } from "./format.js";
import { patch } from "./patch.js";
import { polled } from "./polling.js";

const REFRESH_MS = 5000;
const LINKS = 5;

/** @param {URLSearchParams} _query @param {AbortSignal} signal */
export function failuresView(_query, signal) {
  const failed = h("div");
  const parked = h("div");
  const body = h("div", { class: "failures" }, panel("Failed runs", failed), panel("Parked work", parked));
  const { place, load } = polled("console/failures", signal, REFRESH_MS, (around, found) => {
    if (found.failed.length === 0 && found.parked.length === 0) {
      fill(around, blank("No failures.", "No run has failed, and no step waits for a worker with its code."));
      return;
    }
    if (!around.contains(body)) fill(around, body);
    patch(
      failed,
      found.failed.length
        ? h(
            "ul",
            { class: "groups" },
            found.failed.map((/** @type {FailureGroup} */ each) => failedGroup(each, load)),
          )
        : h("p", { class: "muted" }, "No run has failed."),
      found.is_partial
        ? h("p", { class: "muted" }, "Only the latest failed runs and the steps parked longest are shown.")
        : null,
    );
    patch(
      parked,
      found.parked.length
        ? h(
            "ul",
            { class: "groups" },
            found.parked.map((each) => parkedGroup(each, load)),
          )
        : h("p", { class: "muted" }, "No step is parked."),
    );
  });
  const element = h(
    "div",
    { class: "view" },
    h("h1", { tabindex: "-1" }, "Failures"),
    h(
      "p",
      { class: "lead" },
      "What does not continue by itself. A retry runs the unfinished steps again and keeps the finished ones.",
    ),
    place,
  );
  return { element, title: "Failures" };
}

/** @param {FailureGroup} group @param {() => void} load */
function failedGroup(group, load) {
  const name = group.route ?? short(group.workflow);
  const all = `#/runs?status=failed&workflow=${encodeURIComponent(group.route ?? group.workflow)}`;
  const act = async () => {
    if (await inBulk("retry", group.run_ids)) load();
  };
  return h(
    "li",
    {
      class: "group",
      "data-key": `${group.workflow} ${group.step} ${group.kind} ${group.run_ids.length} ${group.run_ids[0]}`,
    },
    h(
      "div",
      { class: "group-head" },
      h(
        "a",
        { href: all, "data-row": true },
        h("strong", {}, name),
        group.step ? h("code", {}, ` ${group.step}`) : null,
      ),
      h("span", { class: "badge failed" }, count(group.run_ids.length, "run")),
      h("span", { class: "muted" }, group.reason, ", latest ", timeAgo(group.last_at)),
      h(
        "span",
        { class: "group-actions" },
        h("button", { type: "button", onclick: act }, group.run_ids.length > 1 ? "Retry all" : "Retry"),
        group.step
          ? h(
              "button",
              { type: "button", onclick: () => forkInBulk(group.run_ids) },
              group.run_ids.length > 1 ? "Fork all" : "Fork",
            )
          : null,
      ),
    ),
    h("p", { class: "error-text" }, group.error),
    runLinks(group.run_ids),
  );
}

/** @param {any} group @param {() => void} load */
function parkedGroup(group, load) {
  const act = async () => {
    if (await inBulk("cancel", group.run_ids)) load();
  };
  return h(
    "li",
    { class: "group", "data-key": `${group.workflow} ${group.step} ${group.run_ids.length} ${group.run_ids[0]}` },
    h(
      "div",
      { class: "group-head" },
      h("strong", {}, group.route ?? short(group.workflow), h("code", {}, ` ${group.step}`)),
      h("span", { class: "badge waiting" }, count(group.run_ids.length, "run")),
      h("span", { class: "muted" }, "since ", timeAgo(group.since_at)),
      h("button", { type: "button", onclick: act }, group.run_ids.length > 1 ? "Cancel all" : "Cancel"),
    ),
    h("p", { class: "muted" }, "No live worker has its code. It continues when one starts."),
    runLinks(group.run_ids),
  );
}

/** @param {string[]} ids */
function runLinks(ids) {
  return h(
    "p",
    { class: "run-links" },
    ids.slice(0, LINKS).map((id) => h("a", { href: `#/runs/${encodeURIComponent(id)}`, class: "id" }, id.slice(0, 8))),
    ids.length > LINKS ? h("span", { class: "muted" }, `and ${count(ids.length - LINKS, "more", "more")}`) : null,
  );
}
