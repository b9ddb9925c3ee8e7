// The list of runs: search, filters, older runs on demand; the first page refreshes by itself.

import { blank, errorBox, fill, h } from "./dom.js";
import { badge, count, duration, short, shownStatus, statusWord, timeAgo } from "./format.js";
import { get } from "./http.js";

const STATUSES = ["running", "completed", "failed", "cancelled", "timed_out"];
const REFRESH_MS = 3000;
const PAGE_SIZE = 50;

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

  const search = h("input", {
    type: "search",
    id: "run-search",
    placeholder: "run id or workflow",
    value: query.get("q") ?? "",
  });
  const workflow = h("select", { id: "run-workflow" }, h("option", { value: "" }, "all workflows"));
  for (const name of workflows) workflow.append(h("option", { value: name }, name));
  workflow.value = query.get("workflow") ?? "";
  const chips = h("fieldset", { class: "chips" }, h("legend", { class: "unseen" }, "Status"));
  const status = query.get("status") ?? "";
  for (const each of ["", ...STATUSES]) chips.append(chip(each, each === status));
  const place = h("div", { "aria-busy": "true" }, h("p", { class: "loading" }, "Loading …"));
  const summary = h("p", { class: "muted", role: "status" });
  const older = h("button", { type: "button", hidden: true, onclick: () => load(true) }, "Load older runs");

  const element = h(
    "div",
    { class: "view" },
    h("h1", { tabindex: "-1" }, "Runs"),
    h(
      "form",
      { class: "toolbar", role: "search", onsubmit: (event) => event.preventDefault() },
      h("div", { class: "tool grow" }, h("label", { for: "run-search" }, "Search"), search),
      h("div", { class: "tool" }, h("label", { for: "run-workflow" }, "Workflow"), workflow),
      chips,
    ),
    place,
    h("p", { class: "below" }, summary, older),
  );

  function chip(value, isChosen) {
    const input = h("input", { type: "radio", name: "status", value, checked: isChosen, onchange: () => filter() });
    const number = h("span", { class: "number", "data-count": value });
    return h(
      "label",
      { class: `chip ${value}` },
      input,
      h("span", {}, value === "" ? "all" : statusWord(value)),
      number,
    );
  }

  const chosen = () =>
    /** @type {HTMLInputElement | null} */ (element.querySelector("input[name=status]:checked"))?.value ?? "";

  function filter() {
    const wanted = new URLSearchParams();
    if (search.value.trim()) wanted.set("q", search.value.trim());
    if (workflow.value) wanted.set("workflow", workflow.value);
    if (chosen()) wanted.set("status", chosen());
    const address = wanted.size ? `#/runs?${wanted}` : "#/runs";
    history.replaceState(null, "", address);
    load(false);
  }

  let typing = 0;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(filter, 200);
  });
  workflow.addEventListener("change", filter);

  /** @param {boolean} more the next page, not the first one */
  async function load(more) {
    requests += 1;
    const mine = requests;
    const wanted = new URLSearchParams({ limit: String(PAGE_SIZE) });
    if (search.value.trim()) wanted.set("search", search.value.trim());
    if (workflow.value) wanted.set("workflow", workflow.value);
    if (chosen()) wanted.set("status", chosen());
    if (more && cursor) wanted.set("cursor", cursor);
    try {
      const page = await get(`console/runs?${wanted}`, signal);
      if (mine !== requests) return; // a newer request is under way
      const known = new Set(more ? runs.map((run) => run.run_id) : []);
      runs = [...(more ? runs : []), ...page.runs.filter((run) => !known.has(run.run_id))];
      cursor = page.cursor;
      isOnFirstPage = !more;
      show(page.counts);
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
  function show(counts) {
    place.removeAttribute("aria-busy");
    for (const number of /** @type {NodeListOf<HTMLElement>} */ (element.querySelectorAll("[data-count]"))) {
      const of = number.dataset.count ?? "";
      const total = counts === null ? null : of === "" ? Object.values(counts).reduce((a, b) => a + b, 0) : counts[of];
      number.textContent = total === null ? "" : total.toLocaleString("en");
    }
    older.hidden = cursor === null;
    if (runs.length === 0) {
      summary.textContent = "";
      const isFiltered = search.value.trim() || workflow.value || chosen();
      if (isFiltered && cursor)
        fill(place, blank("No matches among the newest runs.", "Older runs have not been searched yet."));
      else if (isFiltered) fill(place, blank("No matching runs.", "Clear the filters."));
      else
        fill(place, blank("No runs yet.", "Start one.", h("a", { href: "#/workflows", class: "button" }, "Workflows")));
      return;
    }
    summary.textContent = `${count(runs.length, "run")}${cursor === null ? "" : " loaded"}`;
    fill(place, table(runs));
  }

  load(false);
  const timer = setInterval(() => {
    if (!document.hidden && isOnFirstPage) load(false);
  }, REFRESH_MS);
  signal.addEventListener("abort", () => {
    clearInterval(timer);
    clearTimeout(typing);
  });
  return { element, title: "Runs" };
}

/** @param {ListedRun[]} runs */
function table(runs) {
  return h(
    "div",
    { class: "table-scroll" },
    h(
      "table",
      { class: "runs" },
      h("caption", { class: "unseen" }, "Runs, newest first"),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["Status", "Run", "Workflow", "Started", "Duration"].map((each) =>
            h("th", { scope: "col", class: each === "Duration" ? "figure" : null }, each),
          ),
        ),
      ),
      h("tbody", {}, runs.map(row)),
    ),
  );
}

/** @param {ListedRun} run */
function row(run) {
  const took = run.ended_at === null ? "" : duration(run.ended_at - run.created_at);
  return h(
    "tr",
    {},
    h("td", {}, badge(shownStatus(run))),
    h("th", { scope: "row" }, h("a", { href: `#/runs/${encodeURIComponent(run.run_id)}`, class: "id" }, run.run_id)),
    h("td", { title: run.workflow }, run.route ?? short(run.workflow)),
    h("td", {}, timeAgo(run.created_at)),
    h("td", { class: "figure" }, took),
  );
}
