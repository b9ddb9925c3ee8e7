// The list of runs: search, filters, older runs on demand; the first page refreshes by itself.

import { BULK, forkInBulk, inBulk } from "./bulk.js";
import { blank, errorBox, fill, h } from "./dom.js";
import { count, shownStatus, statusWord } from "./format.js";
import { get } from "./http.js";
import { patch } from "./patch.js";
import { ORDERS, runTable } from "./run_table.js";
import { savedFilters } from "./saved_filters.js";

const STATUSES = ["running", "waiting", "queued", "completed", "failed", "cancelled", "timed_out"];
/** Name -> seconds. @type {Record<string, string>} */
const SINCE = { "": "any time", 900: "last 15 minutes", 3600: "last hour", 86_400: "last day", 604_800: "last 7 days" };
const REFRESH_MS = 3000;
const PAGE_SIZE = 50;
/** Runs that "Select all" selects at most. */
const SELECTED = 1000;

/**
 * @param {URLSearchParams} query of the address
 * @param {AbortSignal} signal aborts when the view is left
 * @param {string[]} workflows names to filter by
 */
export function runListView(query, signal, workflows) {
  /** @type {ListedRun[]} */
  let runs = [];
  /** @type {string | null} */
  let cursor = null;
  let isOnFirstPage = true;
  let requests = 0;
  let order = ORDERS[query.get("sort") ?? ""] ? (query.get("sort") ?? "") : "";
  /** Ids of the selected runs, and how they stood; null while none can be selected. @type {Map<string, string> | null} */
  let selected = null;
  /** What is done with the selected runs. @type {Map<string, () => Promise<void>>} */
  let actions = new Map();

  const search = h("input", {
    type: "search",
    id: "run-search",
    placeholder: "workflow, input, error or id",
    value: query.get("q") ?? "",
  });
  const content = h("input", {
    type: "search",
    id: "run-content",
    placeholder: "given, emitted or published",
    value: query.get("content") ?? "",
  });
  const workflow = choice(
    "run-workflow",
    [["", "all workflows"], ...workflows.map((name) => [name, name])],
    "workflow",
  );
  const since = choice(
    "run-since",
    Object.entries(SINCE).sort(([a], [b]) => Number(a) - Number(b)),
    "since",
  );
  const chips = h("fieldset", { class: "chips" }, h("legend", { class: "unseen" }, "Status"));
  const status = query.get("status") ?? "";
  for (const each of ["", ...STATUSES]) chips.append(chip(each, each === status));
  const place = h("div", { "aria-busy": "true" }, h("p", { class: "loading" }, "Loading …"));
  const summary = h("p", { class: "muted", role: "status" });
  const older = h("button", { type: "button", hidden: true, onclick: () => load(true) }, "Load older runs");
  const select = h("button", { type: "button", class: "quiet", onclick: toggleSelection }, "Select");
  const selection = h("div", { class: "selection", role: "region", "aria-label": "Selected runs" });
  const filters = savedFilters();

  const element = h(
    "div",
    { class: "view" },
    h("div", { class: "view-head" }, h("h1", { tabindex: "-1" }, "Runs"), select),
    h(
      "form",
      { class: "toolbar", role: "search", onsubmit: (event) => event.preventDefault() },
      h("div", { class: "tool grow" }, h("label", { for: "run-search" }, "Search"), search),
      h("div", { class: "tool grow" }, h("label", { for: "run-content" }, "Event content"), content),
      h("div", { class: "tool" }, h("label", { for: "run-workflow" }, "Workflow"), workflow),
      h("div", { class: "tool" }, h("label", { for: "run-since" }, "Started or ended"), since),
      chips,
    ),
    filters.element,
    selection,
    place,
    h("p", { class: "below" }, summary, older),
  );

  /** @param {string} id @param {string[][]} options @param {string} name in the address */
  function choice(id, options, name) {
    const made = h(
      "select",
      { id, onchange: () => filter() },
      options.map(([value, text]) => h("option", { value }, text)),
    );
    made.value = query.get(name) ?? "";
    if (made.selectedIndex < 0) made.selectedIndex = 0;
    return made;
  }

  function chip(value, isChosen) {
    const input = h("input", { type: "radio", name: "status", value, checked: isChosen, onchange: () => filter() });
    const number = h("span", { class: "number", "data-count": value });
    const text = h("span", {}, value === "" ? "all" : statusWord(value));
    return h("label", { class: `chip ${value}`, hidden: value === "queued" && !isChosen }, input, text, number);
  }

  const chosen = () =>
    /** @type {HTMLInputElement | null} */ (element.querySelector("input[name=status]:checked"))?.value ?? "";

  /** What is filtered by, under the names of the address and of the request. @returns {[string, string, string][]} */
  const given = () => [
    ["q", "search", search.value.trim()],
    ["content", "content", content.value.trim()],
    ["workflow", "workflow", workflow.value],
    ["since", "since_seconds", since.value],
    ["status", "status", chosen()],
  ];

  function filter() {
    const wanted = new URLSearchParams();
    for (const [name, , value] of given()) if (value) wanted.set(name, value);
    if (order) wanted.set("sort", order);
    history.replaceState(null, "", wanted.size ? `#/runs?${wanted}` : "#/runs");
    filters.show();
    selected?.clear();
    load(false);
  }

  /** @param {string} next */
  function sort(next) {
    order = order === next ? "" : next;
    filter();
  }

  let typing = 0;
  for (const [input, pause] of /** @type {[HTMLInputElement, number][]} */ ([
    [search, 200],
    [content, 500], // looks into many journals
  ]))
    input.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(filter, pause);
    });

  /** @param {number} limit @param {string | null} from a cursor */
  function page(limit, from) {
    const wanted = new URLSearchParams({ limit: String(limit) });
    for (const [, name, value] of given()) if (value) wanted.set(name, value);
    if (from) wanted.set("cursor", from);
    return get(`console/runs?${wanted}`, signal);
  }

  /** @param {boolean} more the next page, not the first one */
  async function load(more) {
    requests += 1;
    const mine = requests;
    try {
      const found = await page(PAGE_SIZE, more ? cursor : null);
      if (mine !== requests) return; // a newer request is under way
      const known = new Set(more ? runs.map((run) => run.run_id) : []);
      const rows = found.runs.map((/** @type {ListedRun} */ run) => ({ ...run, found: found.found[run.run_id] }));
      runs = [...(more ? runs : []), ...rows.filter((run) => !known.has(run.run_id))];
      cursor = found.cursor;
      isOnFirstPage = !more;
      showCounts(found.counts);
      show();
    } catch (error) {
      if (signal.aborted || mine !== requests) return;
      place.removeAttribute("aria-busy");
      if (runs.length === 0 || error.status >= 400)
        fill(
          place,
          errorBox(error, () => load(false)),
        );
    }
  }

  /** @param {Record<string, number> | null} counts */
  function showCounts(counts) {
    for (const number of /** @type {NodeListOf<HTMLElement>} */ (element.querySelectorAll("[data-count]"))) {
      const of = number.dataset.count ?? "";
      const total = counts === null ? null : of === "" ? Object.values(counts).reduce((a, b) => a + b, 0) : counts[of];
      number.textContent = total === null || total === undefined ? "" : total.toLocaleString("en");
    }
  }

  function show() {
    place.removeAttribute("aria-busy");
    older.hidden = cursor === null;
    const queued = element.querySelector(".chip.queued");
    if (queued instanceof HTMLElement)
      queued.hidden = chosen() !== "queued" && !runs.some((run) => shownStatus(run) === "queued");
    select.hidden = runs.length === 0 && selected === null;
    showSelection();
    if (runs.length === 0) {
      summary.textContent = "";
      fill(place, nothing());
      return;
    }
    summary.textContent = `${count(runs.length, "run")}${cursor === null ? "" : " loaded"}${
      order ? `, sorted by ${ORDERS[order].words}` : ""
    }`;
    const table = runTable(runs, { order, sort, selected, toggled });
    if (place.querySelector("table")) patch(place, table);
    else fill(place, table);
    for (const box of /** @type {NodeListOf<HTMLInputElement>} */ (place.querySelectorAll("input[data-select]")))
      box.checked = selected?.has(box.dataset.select ?? "") ?? false;
  }

  function nothing() {
    const clear = h("a", { href: "#/runs", class: "button" }, "Clear the filters");
    const isFiltered = given().some(([, , value]) => value);
    if (isFiltered && cursor)
      return blank("No matches among the newest runs.", "Older runs have not been searched yet.", clear);
    if (isFiltered) return blank("No matching runs.", null, clear);
    return blank("No runs yet.", "Start one.", h("a", { href: "#/workflows", class: "button" }, "Workflows"));
  }

  // -- selecting -----------------------------------------------------------------------------------------------------

  function toggleSelection() {
    selected = selected === null ? new Map() : null;
    select.textContent = selected === null ? "Select" : "Done";
    show();
  }

  /** @param {string} id @param {boolean} isSelected */
  function toggled(id, isSelected) {
    const run = runs.find((each) => each.run_id === id);
    if (isSelected && run) selected?.set(id, run.status);
    else selected?.delete(id);
    showSelection();
  }

  /** Select everything that fits, also what is not loaded yet. */
  async function selectAll() {
    if (selected === null) return;
    for (const run of runs) selected.set(run.run_id, run.status);
    let from = cursor;
    while (from && selected && selected.size < SELECTED) {
      const found = await page(PAGE_SIZE * 10, from);
      for (const run of found.runs) selected.set(run.run_id, run.status);
      from = found.cursor;
    }
    show();
  }

  function showSelection() {
    selection.hidden = selected === null;
    if (selected === null) return;
    const of = (/** @type {string[]} */ statuses) =>
      [...(selected ?? [])].filter(([, each]) => statuses.includes(each)).map(([id]) => id);
    /** @type {[string, string, string[], (ids: string[]) => Promise<boolean>][]} */
    const acts = [
      ["retry", "Retry", of(BULK.retry.statuses), (ids) => inBulk("retry", ids)],
      ["fork", "Fork", of(["failed"]), forkInBulk],
      ["cancel", "Cancel", of(BULK.cancel.statuses), (ids) => inBulk("cancel", ids)],
    ];
    actions = new Map(
      acts.map(([key, , ids, act]) => [
        key,
        async () => {
          if (await act(ids)) filter();
        },
      ]),
    );
    patch(
      selection,
      h("span", { role: "status" }, `${count(selected.size, "run")} selected`),
      h("button", { type: "button", class: "quiet", "data-key": "all", onclick: selectAll }, "Select all that match"),
      acts.map(([key, word, ids]) =>
        // A kept button keeps its listener: what it does is looked up.
        h(
          "button",
          { type: "button", "data-key": key, onclick: () => actions.get(key)?.() },
          `${word} ${ids.length || ""}`.trim(),
        ),
      ),
    );
    for (const [key, , ids] of acts) {
      const button = selection.querySelector(`[data-key=${key}]`);
      if (button instanceof HTMLButtonElement) button.disabled = ids.length === 0;
    }
  }

  showSelection();
  load(false);
  const timer = setInterval(() => {
    if (!document.hidden && isOnFirstPage && !content.value.trim()) load(false);
  }, REFRESH_MS);
  signal.addEventListener("abort", () => {
    clearInterval(timer);
    clearTimeout(typing);
  });
  return { element, title: "Runs" };
}
