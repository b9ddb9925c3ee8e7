// The start page: is it healthy, what is stuck, what is slow.

import { barTable, endedChart, shareBar } from "./chart.js";
import { columnHeading, dataTable, table } from "./data_table.js";
import { fill, h, panel } from "./dom.js";
import { bytes, count, duration, short } from "./format.js";
import { patch } from "./patch.js";
import { polled } from "./polling.js";
import { runTable } from "./run_table.js";

const REFRESH_MS = 5000;
/** Steps that are shown at once. */
const SLOWEST = 8;

/** @param {AbortSignal} signal */
export function overviewView(signal) {
  const health = h("div");
  const tiles = h("dl", { class: "tiles" });
  const chart = h("div", { class: "ended-chart" });
  const failures = h("div");
  const oldest = h("div");
  const slow = h("div");
  const queues = h("div");
  const memory = h("div");
  const body = h(
    "div",
    { class: "overview" },
    health,
    tiles,
    h(
      "div",
      { class: "columns overview-columns" },
      h("div", { class: "column" }, panel("Ended in the last hour", chart), panel("Running longest", oldest)),
      h(
        "div",
        { class: "column" },
        panel("Failures in the last hour", failures),
        panel("Slowest steps", slow),
        panel("Queues", queues),
        panel("Redis memory", memory),
      ),
    ),
  );
  /** @type {Overview | null} */
  let shown = null;
  const drawChart = () => {
    if (shown && chart.clientWidth) fill(chart, endedChart(shown.ended, chart.clientWidth), legend(shown));
  };
  const { place } = polled("console/overview", signal, REFRESH_MS, (around, /** @type {Overview} */ found) => {
    if (!around.contains(body)) fill(around, body);
    shown = found;
    showHealth(health, found);
    patch(tiles, figures(found));
    drawChart();
    patch(failures, failureList(found));
    patch(oldest, oldestRuns(found));
    patch(slow, slowest(found));
    patch(queues, queueList(found));
    patch(memory, memoryBar(found));
  });
  new ResizeObserver(drawChart).observe(chart);
  return {
    element: h("div", { class: "view" }, h("h1", { tabindex: "-1" }, "Overview"), place),
    title: "Overview",
  };
}

/** @param {HTMLElement} place @param {Overview} found */
function showHealth(place, found) {
  const isWell = found.problems.length === 0;
  patch(
    place,
    isWell
      ? h(
          "p",
          { class: "health well", role: "status" },
          h("span", { "aria-hidden": "true" }, "✓ "),
          "Everything works: workers answer, nothing is stuck.",
        )
      : h(
          "ul",
          { class: "health ill", "aria-label": "Problems" },
          found.problems.map((each) =>
            h(
              "li",
              {},
              h("span", { "aria-hidden": "true" }, "⚠ "),
              each.href === "#/" ? each.text : h("a", { href: each.href }, each.text),
            ),
          ),
        ),
  );
}

/** @param {Overview} found */
function figures(found) {
  const ended = Object.values(found.ended.counts)
    .flat()
    .reduce((a, b) => a + b, 0);
  const failed = (found.ended.counts.failed ?? []).reduce((a, b) => a + b, 0);
  const running = found.runs.running - (found.waiting ?? 0) - found.queued;
  /** @type {[string, string, string, string][]} */
  const rows = [
    ["Running", running.toLocaleString("en"), "#/runs?status=running", "running"],
    [
      "Waiting",
      found.waiting === null ? "many" : found.waiting.toLocaleString("en"),
      "#/runs?status=waiting",
      "waiting",
    ],
    ["Ended in an hour", ended.toLocaleString("en"), "#/runs?since=3600", ""],
    ["Failed in an hour", failed.toLocaleString("en"), "#/runs?status=failed&since=3600", failed ? "failed" : ""],
    ["Parked steps", found.parked.toLocaleString("en"), "#/failures", found.parked ? "waiting" : ""],
    ["Workers", found.workers.live.toLocaleString("en"), "#/workers", found.workers.live ? "" : "failed"],
  ];
  return rows.map(([name, value, href, kind]) =>
    h(
      "div",
      { class: `tile ${kind}`, "data-key": name },
      h("dt", {}, h("a", { href }, name)),
      h("dd", { class: "figure" }, value),
    ),
  );
}

/** @param {Overview} found */
function legend(found) {
  const used = Object.entries(found.ended.counts).filter(([, counts]) => counts.some(Boolean));
  return h(
    "ul",
    { class: "legend" },
    used.map(([status, counts]) =>
      h(
        "li",
        {},
        h("span", { class: `swatch ended-swatch ${status}`, "aria-hidden": "true" }),
        `${counts.reduce((a, b) => a + b, 0).toLocaleString("en")} ${status.replace("_", " ")}`,
      ),
    ),
    used.length ? null : h("li", {}, "No run ended in the last hour."),
  );
}

/** @param {Overview} found */
function failureList(found) {
  if (found.failures.length === 0) return h("p", { class: "muted" }, "None.");
  return h(
    "ul",
    { class: "failure-list" },
    found.failures
      .slice(0, 6)
      .map((group) =>
        h(
          "li",
          { "data-key": `${group.workflow} ${group.step} ${group.kind}` },
          h(
            "a",
            { href: "#/failures", "data-row": true },
            h("strong", {}, `${group.route ?? short(group.workflow)}${group.step ? ` · ${group.step}` : ""}`),
          ),
          h("span", { class: "figure" }, group.run_ids.length.toLocaleString("en")),
          h("span", { class: "row-error", title: group.error }, group.error),
        ),
      ),
  );
}

/** @param {Overview} found */
function oldestRuns(found) {
  if (found.oldest.length === 0) return h("p", { class: "muted" }, "Nothing is running.");
  return runTable(found.oldest, { caption: "Runs, the one started first at the top" });
}

/** @param {Overview} found */
function slowest(found) {
  if (found.steps.length === 0) return h("p", { class: "muted" }, "No step has run yet.");
  return [
    barTable(
      "Slowest steps",
      found.steps
        .slice(0, SLOWEST)
        .map((each) => [
          h("span", { title: `${each.workflow}, ${count(each.count, "attempt")}` }, stepName(each)),
          bounded(each.p95_ms),
          each.p95_ms,
        ]),
    ),
    h("p", { class: "muted note" }, "95 of 100 attempts took at most this long, since the deployment began."),
    h("details", { class: "all-steps" }, h("summary", {}, "All steps"), allSteps(found)),
  ];
}

/** @param {{workflow: string, step: string}} of */
function stepName({ workflow, step }) {
  return `${short(workflow)}.${step}`;
}

/** @param {Overview} found */
function allSteps(found) {
  return dataTable(
    "All steps",
    ["Step", "Attempts", "Median", "95 of 100", "In all"],
    found.steps.map((each) => [
      h("code", { title: each.workflow }, stepName(each)),
      each.count.toLocaleString("en"),
      bounded(each.median_ms),
      bounded(each.p95_ms),
      duration(each.total_ms),
    ]),
  );
}

/** @param {number} ms upper bound of a histogram's bucket */
function bounded(ms) {
  return ms ? `≤ ${duration(ms)}` : "–";
}

/** @param {Overview} found */
function queueList(found) {
  if (found.queues.length === 0) return h("p", { class: "muted" }, "No step has been dispatched yet.");
  return table(
    "Queues",
    ["Queue", "waiting now", "oldest", "usual wait"].map((each, at) => columnHeading(each, at > 0)),
    found.queues.map((queue) =>
      h(
        "tr",
        { "data-key": queue.name },
        h("th", { scope: "row" }, queue.name),
        h("td", { class: "figure" }, queue.unclaimed.toLocaleString("en")),
        h("td", { class: "figure" }, queue.unclaimed ? duration(queue.oldest_seconds * 1000) : "–"),
        h("td", { class: "figure" }, bounded(queue.p95_ms)),
      ),
    ),
  );
}

/** @param {Overview} found */
function memoryBar({ memory: { used, limit } }) {
  if (!limit) return h("p", {}, bytes(used), h("span", { class: "muted" }, ", no limit set (maxmemory)"));
  const share = used / limit;
  return [
    shareBar(share, share > 0.85 ? "failed" : ""),
    h("p", {}, `${bytes(used)} of ${bytes(limit)}`, h("span", { class: "muted" }, ` (${Math.round(share * 100)} %)`)),
  ];
}
