// The workers and the queues: who is there, what each does, what waits.

import { columnHeading, dataTable, table } from "./data_table.js";
import { confirmed } from "./dialogs.js";
import { blank, fill, h, panel } from "./dom.js";
import { duration, short, workerName } from "./format.js";
import { post } from "./http.js";
import { patch } from "./patch.js";
import { polled } from "./polling.js";

const REFRESH_MS = 3000;

/** @typedef {(what: "queues" | "workflows", name: string, isPaused: boolean) => void} Toggle */

/** What is asked before something is paused, and what happens. */
const PAUSES = {
  queues: [
    "Pause queue",
    "Steps that are running go on. Runs wait at their next step of this queue, and their timeouts go on.",
  ],
  workflows: [
    "Pause workflow",
    "Steps that are running go on. Its runs wait at their next step, new ones at their first, and their timeouts go on.",
  ],
};

/** @param {AbortSignal} signal */
export function workersView(signal) {
  const workers = h("div");
  const workflows = h("div");
  const queues = h("div");
  const limits = h("div");
  const problem = h("p", { class: "field-error", role: "alert" });
  const body = h(
    "div",
    { class: "workers" },
    problem,
    panel("Workers", workers),
    panel("Workflows", workflows),
    panel("Queues", queues),
    panel("Concurrency limits", limits),
  );

  /** @type {Toggle} */
  async function toggle(what, name, isPaused) {
    const [title, text] = PAUSES[what];
    if (!isPaused && !(await confirmed(`${title} ${name}?`, text, "Pause"))) return;
    problem.textContent = "";
    try {
      await post(`console/${what}/${encodeURIComponent(name)}/${isPaused ? "resume" : "pause"}`);
      load();
    } catch (error) {
      problem.textContent = error.message;
    }
  }

  const { place, load } = polled("console/workers", signal, REFRESH_MS, (around, found) => {
    const served = workflowRows(found.workers, found.paused_workflows, toggle);
    const isEmpty = [found.workers, found.limits, served].every((each) => each.length === 0);
    if (isEmpty && !found.queues.some((/** @type {QueueFigures} */ each) => each.paused_since)) {
      fill(around, blank("No workers.", "Runs are stored and continue once a worker starts: umbel worker module"));
      return;
    }
    if (!around.contains(body)) fill(around, body);
    patch(workers, table("Workers", headed(WORKER_HEADINGS), found.workers.map(workerRow)));
    patch(workflows, table("Workflows", headed(WORKFLOW_HEADINGS), served));
    patch(
      queues,
      table(
        "Queues",
        headed(QUEUE_HEADINGS),
        found.queues.map((/** @type {QueueFigures} */ each) => queueRow(each, toggle)),
      ),
    );
    patch(limits, limitTable(found.limits));
  });
  return {
    element: h("div", { class: "view" }, h("h1", { tabindex: "-1" }, "Workers"), place),
    title: "Workers",
  };
}

const WORKER_HEADINGS = ["Worker", "State", "At work", "Workflows", "Queues", "Code", "Last seen"];
const WORKFLOW_HEADINGS = ["Workflow", "Steps", "Live workers"];
const QUEUE_HEADINGS = ["Queue", "Waiting now", "Oldest", "Median wait", "95 of 100 within", "Messages"];
/** Headings of columns with figures. */
const FIGURES = new Set(["At work", "Live workers", "Waiting now", "Oldest", "Median wait", "95 of 100 within"]);

/** @param {string[]} headings */
function headed(headings) {
  return headings.map((each) => columnHeading(each, FIGURES.has(each)));
}

/** @param {WorkerRow} worker */
function workerRow(worker) {
  const state = worker.is_live
    ? worker.paused.length
      ? ["waiting", "◔", "paused"]
      : ["completed", "✓", "live"]
    : ["failed", "✕", "silent"];
  return h(
    "tr",
    { "data-key": worker.name },
    h(
      "th",
      { scope: "row" },
      workerName(worker.name),
      h(
        "span",
        { class: "summary" },
        `${worker.host}, process ${worker.pid}${worker.pool ? `, ${worker.pool} pool` : ""}`,
      ),
      worker.detours.map((each) => h("span", { class: "summary" }, each)),
    ),
    h(
      "td",
      {},
      h(
        "span",
        { class: `badge ${state[0]}` },
        h("span", { "aria-hidden": "true", class: "sign" }, state[1]),
        state[2],
      ),
    ),
    h("td", { class: "figure" }, worker.at_work.toLocaleString("en")),
    h("td", {}, worker.workflows.map(short).join(", ") || "none"),
    h("td", {}, worker.queues.map((each) => (worker.paused.includes(each) ? `${each} (paused)` : each)).join(", ")),
    h("td", {}, h("code", { class: "id", title: worker.library }, worker.library.slice(-8) || "older release")),
    h("td", {}, `${duration(worker.silent_seconds * 1000)} ago`),
  );
}

/**
 * Limits and what of them is used. One is what the newest start of its workflow said, so it is changed there.
 *
 * @param {{workflow: string, route: string | null, limit: number, in_use: number, waiting: number}[]} limits
 */
function limitTable(limits) {
  if (limits.length === 0)
    return h("p", { class: "muted" }, "No run of a workflow with ", h("code", {}, "num_concurrent_runs"), " goes on.");
  return [
    dataTable(
      "Concurrency limits",
      ["Workflow", "Executing", "Limit", "Waiting runs"],
      limits.map((each) => [
        h(
          "a",
          {
            href: `#/runs?status=${each.waiting ? "queued" : "running"}&workflow=${encodeURIComponent(each.route ?? each.workflow)}`,
            title: each.workflow,
          },
          each.route ?? short(each.workflow),
        ),
        each.in_use.toLocaleString("en"),
        each.limit.toLocaleString("en"),
        each.waiting.toLocaleString("en"),
      ]),
    ),
    h(
      "p",
      { class: "muted note" },
      "The limit is the ",
      h("code", {}, "num_concurrent_runs"),
      " of the newest start; the next start with another one changes it.",
    ),
  ];
}

/**
 * The workflows of live workers, and those that are paused: under their whole name, or its last part.
 *
 * @param {WorkerRow[]} workers
 * @param {Record<string, number>} paused
 * @param {Toggle} toggle
 */
function workflowRows(workers, paused, toggle) {
  const served = workers.filter((each) => each.is_live).flatMap((each) => each.workflows);
  const names = [...new Set(served)];
  const covered = new Set([...names, ...names.map(short)]);
  return [...names, ...Object.keys(paused).filter((name) => !covered.has(name))].sort().map((name) => {
    const pausedAs = [name, short(name)].find((each) => each in paused);
    return h(
      "tr",
      { "data-key": name },
      h("th", { scope: "row" }, short(name), name === short(name) ? null : h("span", { class: "summary" }, name)),
      pauseCell("workflows", pausedAs ?? name, pausedAs !== undefined, toggle),
      h("td", { class: "figure" }, served.filter((each) => each === name).length.toLocaleString("en")),
    );
  });
}

/** @param {QueueFigures} queue @param {Toggle} toggle */
function queueRow(queue, toggle) {
  const isPaused = Boolean(queue.paused_since);
  return h(
    "tr",
    { "data-key": queue.name },
    h("th", { scope: "row" }, queue.name),
    h("td", { class: "figure" }, queue.unclaimed.toLocaleString("en")),
    h("td", { class: "figure" }, queue.unclaimed ? duration(queue.oldest_seconds * 1000) : "–"),
    h("td", { class: "figure" }, queue.median_ms ? `≤ ${duration(queue.median_ms)}` : "–"),
    h("td", { class: "figure" }, queue.p95_ms ? `≤ ${duration(queue.p95_ms)}` : "–"),
    pauseCell("queues", queue.name, isPaused, toggle),
  );
}

/** @param {"queues" | "workflows"} what @param {string} name @param {boolean} isPaused @param {Toggle} toggle */
function pauseCell(what, name, isPaused, toggle) {
  return h(
    "td",
    {},
    isPaused ? h("span", { class: "badge waiting" }, "paused") : null,
    h(
      "button",
      {
        type: "button",
        class: "quiet",
        "data-key": isPaused ? "resume" : "pause",
        "aria-label": `${isPaused ? "Resume" : "Pause"} ${name}`,
        onclick: () => toggle(what, name, isPaused),
      },
      isPaused ? "Resume" : "Pause",
    ),
  );
}
