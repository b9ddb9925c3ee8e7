// The head of a run: what it is, how it stands, and what can be done with it.

import { confirmed } from "./dialogs.js";
import { announce, h } from "./dom.js";
import { badge, duration, short, shownStatus, timeAgo } from "./format.js";
import { post } from "./http.js";
import { patch } from "./patch.js";
import { inputSummary, nameOf } from "./run_table.js";

/**
 * @param {Run} first the run as it was first read
 * @param {(what: "retry" | "cancel") => Promise<void>} act
 */
export function runHead(first, act) {
  const skew = first.now - Date.now();
  const facts = h("dl", { class: "facts run-facts" });
  const actions = h("div", { class: "actions" });
  const problem = h("p", { class: "field-error", role: "alert" });
  const link = h("span", { class: "connection" });
  const element = h(
    "div",
    { class: "run-top" },
    h("div", { class: "run-head" }, facts, h("div", { class: "run-side" }, link, actions)),
    problem,
  );

  let isBusy = false;

  /** @param {string} what @param {string} failed @param {() => Promise<any>} work */
  async function attempt(what, failed, work) {
    if (isBusy) return;
    isBusy = true;
    problem.textContent = "";
    try {
      await work();
      announce(what);
    } catch (error) {
      const isUnreachable = error.status === 0;
      problem.textContent = `${failed}: ${error.message}${isUnreachable ? " Try again when it is back." : ""}`;
    }
    isBusy = false;
  }

  async function cancel() {
    const text = "Running steps will be interrupted. What has been done is kept, and a cancelled run can be retried.";
    if (await confirmed("Cancel this run?", text, "Cancel run", true))
      attempt("Run cancelled.", "Not cancelled", () => act("cancel"));
  }

  /** @param {string} route @param {any} value */
  function again(route, value) {
    attempt("Run started.", "Not started", async () => {
      const body = { start_event: { type: first.began_with?.type, value } };
      const run = await post(`workflows/${encodeURIComponent(route)}/run-nowait`, body);
      location.hash = `#/runs/${encodeURIComponent(run.run_id)}`;
    });
  }

  /** @param {Run} run */
  function buttons(run) {
    const isRunning = run.status === "running";
    const canRetry = ["failed", "timed_out", "cancelled"].includes(run.status);
    const began = run.began_with;
    const canRepeat = run.route && began && !began.why_not;
    const like = `#/workflows/${encodeURIComponent(run.route ?? "")}?like=${encodeURIComponent(run.run_id)}`;
    return [
      canRepeat ? h("a", { class: "button quiet", href: like, "data-key": "edit" }, "Edit and run again") : null,
      canRepeat
        ? h(
            "button",
            {
              type: "button",
              "data-key": "again",
              title: "Start a run with the same input",
              onclick: () => again(run.route ?? "", began.value),
            },
            "Run again",
          )
        : null,
      isRunning ? h("button", { type: "button", "data-key": "cancel", onclick: cancel }, "Cancel") : null,
      canRetry
        ? h(
            "button",
            {
              type: "button",
              class: "primary",
              "data-key": "retry",
              title: "Unfinished steps run again; finished steps are kept",
              onclick: () => attempt("Run resumed.", "Not retried", () => act("retry")),
            },
            "Retry",
          )
        : null,
    ];
  }

  /** @param {Run} run */
  function show(run) {
    /** @type {[string, any][]} */
    const rows = [
      ["Status", badge(shownStatus(run))],
      ["Started", timeAgo(run.created_at - skew)],
      ["Duration", h("span", { class: "figure" }, duration((run.ended_at ?? Date.now() + skew) - run.created_at))],
    ];
    if (run.parent) {
      const address = `#/runs/${encodeURIComponent(run.parent)}`;
      rows.push(["Parent run", h("a", { href: address, class: "id" }, run.parent.slice(0, 12))]);
    }
    if (run.session)
      rows.push(["Session", h("a", { href: `#/sessions/${encodeURIComponent(run.session)}` }, run.session)]);
    rows.push([
      "Id",
      h(
        "span",
        { class: "run-id-line" },
        h("code", { class: "id" }, run.run_id),
        copyButton("Copy id", run.run_id),
        copyButton("Copy command", `umbel show ${/^[\w.~-]+$/.test(run.run_id) ? run.run_id : `'${run.run_id}'`}`),
      ),
    ]);
    patch(
      facts,
      rows.map(([name, value]) => h("div", { "data-key": name }, h("dt", {}, name), h("dd", {}, value))),
    );
    patch(actions, buttons(run));
  }

  return {
    element,
    show,
    /** @param {string} now @param {string} [why] it was refused */
    connection(now, why) {
      /** @type {Record<string, string | undefined>} */
      const words = { live: "live", waiting: "reconnecting …", ended: "ended", paused: "paused", refused: why };
      link.dataset.state = now;
      link.textContent = words[now] ?? "";
    },
  };
}

/** @param {string} label @param {string} text */
function copyButton(label, text) {
  const button = h(
    "button",
    {
      type: "button",
      class: "quiet copy",
      "data-own": true,
      title: text,
      onclick: async () => {
        try {
          await navigator.clipboard.writeText(text);
          announce("Copied.");
          button.textContent = "Copied";
        } catch {
          button.textContent = "Not allowed by the browser";
        }
        setTimeout(() => (button.textContent = label), 1500);
      },
    },
    label,
  );
  return button;
}

/** The heading of a run: its workflow, and below it what it was given. @param {HTMLElement} place @param {Run} run */
export function showTitle(place, run) {
  const name = nameOf(run);
  const shown = run.route
    ? h("a", { href: `#/workflows/${encodeURIComponent(run.route)}`, class: "plain" }, name)
    : h("span", { title: `${run.workflow}, not served by this server` }, short(run.workflow));
  patch(place, shown, " ", h("span", { class: "input-summary" }, inputSummary(run)));
}
