// Runs as rows: what each is, what it was given, why it failed, when and how long; the whole row is a link.

import { table } from "./data_table.js";
import { h } from "./dom.js";
import { badge, bytes, duration, short, shownStatus, timeAgo } from "./format.js";
import { gist } from "./json_view.js";

const ID_CHARACTERS = 8;

/**
 * Orders of the loaded rows by the name in the address; without one, newest first.
 *
 * @type {Record<string, {words: string, compare: (a: ListedRun, b: ListedRun) => number}>}
 */
export const ORDERS = {
  workflow: { words: "workflow", compare: (a, b) => nameOf(a).localeCompare(nameOf(b)) },
  started: { words: "start, oldest first", compare: (a, b) => a.created_at - b.created_at },
  duration: { words: "duration, longest first", compare: (a, b) => took(b) - took(a) },
};

/** @type {[string, string][]} heading and its order */
const COLUMNS = [
  ["Status", ""],
  ["Run", "workflow"],
  ["Started", "started"],
  ["Duration", "duration"],
  ["Id", ""],
];

/** The name a workflow is shown under. @param {ListedRun} run */
export function nameOf(run) {
  return run.route ?? short(run.workflow);
}

/** @param {ListedRun} run */
function took(run) {
  return (run.ended_at ?? Date.now()) - run.created_at;
}

/**
 * @param {ListedRun[]} runs
 * @param {{order?: string, sort?: (order: string) => void, selected?: Map<string, string> | null,
 *   toggled?: (id: string, isSelected: boolean) => void, caption?: string}} options `toggled` is called when a row is
 *   selected, which is possible while `selected` is not null
 */
export function runTable(runs, { order = "", sort, selected = null, toggled, caption = "Runs, newest first" } = {}) {
  const rows = order ? [...runs].sort(ORDERS[order].compare) : runs;
  return table(
    order ? `Runs, sorted by ${ORDERS[order].words}` : caption,
    [
      selected
        ? h("th", { scope: "col", "data-key": "select", class: "select" }, h("span", { class: "unseen" }, "Selected"))
        : null,
      COLUMNS.map(([name, by]) => heading(name, by, order, sort)),
    ],
    rows.map((run) => row(run, selected !== null, toggled)),
    "runs",
  );
}

/** @param {string} name @param {string} by @param {string} order @param {((order: string) => void) | undefined} sort */
function heading(name, by, order, sort) {
  const kind = { Duration: "figure", Id: "run-id" }[name] ?? null;
  if (!by || !sort) return h("th", { scope: "col", class: kind, "data-key": name }, name);
  const isSorted = by === order;
  const direction = by === "duration" ? "descending" : "ascending";
  return h(
    "th",
    { scope: "col", class: kind, "aria-sort": isSorted ? direction : null, "data-key": name },
    h(
      "button",
      {
        type: "button",
        class: "sort",
        title: isSorted ? "Newest first again" : `Sort the loaded runs by ${ORDERS[by].words}`,
        onclick: () => sort(by),
      },
      name,
      h("span", { "aria-hidden": "true" }, isSorted ? (direction === "ascending" ? " ↑" : " ↓") : ""),
    ),
  );
}

/** @param {ListedRun} run @param {boolean} isSelectable @param {((id: string, is: boolean) => void) | undefined} toggled */
function row(run, isSelectable, toggled) {
  const name = nameOf(run);
  const box = h("input", {
    type: "checkbox",
    "aria-label": `Select ${name} ${run.run_id}`,
    "data-select": run.run_id,
    onchange: (event) => toggled?.(run.run_id, event.target.checked),
  });
  return h(
    "tr",
    { "data-key": run.run_id },
    isSelectable ? h("td", { class: "select", "data-key": "select" }, box) : null,
    h("td", { class: "run-status", "data-key": "status" }, badge(shownStatus(run))),
    h(
      "th",
      { scope: "row", "data-key": "what", class: run.generation ? `generation-${Math.min(run.generation, 5)}` : null },
      (run.generation ?? 1) > 1
        ? h(
            "span",
            { class: "generation" },
            h("span", { "aria-hidden": "true" }, "└"),
            h("span", { class: "unseen" }, `generation ${run.generation}: `),
          )
        : null,
      h(
        "a",
        { href: `#/runs/${encodeURIComponent(run.run_id)}`, class: "row-link", "data-row": true, title: run.workflow },
        name,
      ),
      h("span", { class: "summary" }, inputSummary(run)),
      run.found
        ? h(
            "span",
            { class: "summary found", title: run.found.excerpt },
            `${short(run.found.type)} ${run.found.excerpt}`,
          )
        : null,
      run.error ? h("span", { class: "row-error", title: run.error }, run.error) : null,
    ),
    h("td", { class: "run-started", "data-key": "started" }, timeAgo(run.created_at)),
    h("td", { class: "figure run-took", "data-key": "took" }, run.ended_at === null ? "" : duration(took(run))),
    h(
      "td",
      { class: "run-id", "data-key": "id" },
      h("code", { class: "id", title: run.run_id }, run.run_id.slice(0, ID_CHARACTERS)),
    ),
  );
}

/** What a run was given, in one line. @param {ListedRun} run */
export function inputSummary(run) {
  const began = run.began_with;
  if (!began) return run.input_bytes ? bytes(run.input_bytes) : "";
  if (began.why_not) return `${bytes(began.size ?? 0)}, ${began.why_not}`;
  return Object.entries(began.value ?? {})
    .map(([name, value]) => `${name}: ${gist(value, 60)}`)
    .join(", ");
}
