// The workers and the queues: who is there, what each does, what waits.

import { blank, fill, h, panel } from "./dom.js";
import { duration, short, workerName } from "./format.js";
import { patch } from "./patch.js";
import { polled } from "./polling.js";

const REFRESH_MS = 3000;

/** @param {AbortSignal} signal */
export function workersView(signal) {
  const workers = h("div");
  const queues = h("div");
  const body = h("div", { class: "workers" }, panel("Workers", workers), panel("Queues", queues));
  const { place } = polled("console/workers", signal, REFRESH_MS, (around, found) => {
    if (found.workers.length === 0) {
      fill(around, blank("No workers.", "Runs are stored and continue once a worker starts: umbel worker module"));
      return;
    }
    if (!around.contains(body)) fill(around, body);
    patch(workers, table("Workers", WORKER_HEADINGS, found.workers.map(workerRow)));
    patch(queues, table("Queues", QUEUE_HEADINGS, found.queues.map(queueRow)));
  });
  return {
    element: h("div", { class: "view" }, h("h1", { tabindex: "-1" }, "Workers"), place),
    title: "Workers",
  };
}

const WORKER_HEADINGS = ["Worker", "State", "At work", "Workflows", "Queues", "Code", "Last seen"];
const QUEUE_HEADINGS = ["Queue", "Waiting now", "Oldest", "Median wait", "95 of 100 within"];
/** Headings of columns with figures. */
const FIGURES = new Set(["At work", "Waiting now", "Oldest", "Median wait", "95 of 100 within"]);

/** @param {string} caption @param {string[]} headings @param {HTMLElement[]} rows */
function table(caption, headings, rows) {
  return h(
    "div",
    { class: "table-scroll" },
    h(
      "table",
      {},
      h("caption", { class: "unseen" }, caption),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          headings.map((each) => h("th", { scope: "col", class: FIGURES.has(each) ? "figure" : null }, each)),
        ),
      ),
      h("tbody", {}, rows),
    ),
  );
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
      h("span", { class: "summary" }, `${worker.host}, process ${worker.pid}`),
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

/** @param {QueueFigures} queue */
function queueRow(queue) {
  return h(
    "tr",
    { "data-key": queue.name },
    h("th", { scope: "row" }, queue.name),
    h("td", { class: "figure" }, queue.unclaimed.toLocaleString("en")),
    h("td", { class: "figure" }, queue.unclaimed ? duration(queue.oldest_seconds * 1000) : "–"),
    h("td", { class: "figure" }, queue.median_ms ? `≤ ${duration(queue.median_ms)}` : "–"),
    h("td", { class: "figure" }, queue.p95_ms ? `≤ ${duration(queue.p95_ms)}` : "–"),
  );
}
