// The past of a run: a slider over its changes, what it was like at each, and going on from there.

import { errorBox, fill, h } from "./dom.js";
import { familyTree } from "./family_view.js";
import { clock, count } from "./format.js";
import { goOn } from "./going_on.js";
import { get } from "./http.js";
import { gist, shownValue } from "./json_view.js";
import { stateList } from "./state_view.js";

/** Outcomes of a commit after which the step is done. */
const DONE = new Set(["returned", "fannedout", "done"]);
/** The pause after the slider was moved. */
const SETTLE_MS = 150;

/**
 * @typedef {{seq: number, at: number, kind: string, step: string, attempt: number, work_id: string, outcome: string,
 *   event: string, branch: number, state_version: number, back_to: number}} Point
 * @typedef {{work_id: string, step: string, doing: string, failures: number, events: ShownEvent[],
 *   is_gathering: boolean}} PastItem
 * @typedef {Point & {status: string, state: (Shown & {key: string})[], items: PastItem[], items_left_out: number,
 *   waiters: number, fan_outs: number, difference: Change[] | null}} PastRun
 * @typedef {{op: string, path: string, value?: any, was?: any}} Change
 */

/**
 * @param {string} path of the run's data
 * @param {string} runId
 * @param {(counts: Map<string, any> | null) => void} showPast called with what each step had done at the point that is
 *   shown; null for the present
 * @param {() => void} rewound called when the run was put back
 */
export function historyView(path, runId, showPast, rewound) {
  const slider = h("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "Point in time", oninput: moved });
  const line = h("p", { class: "point-line", role: "status" });
  const other = h("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "Other point", oninput: moved });
  const otherLine = h("p", { class: "point-line", role: "status" });
  const isCompared = h("input", { type: "checkbox", onchange: compare });
  const comparison = h("div", { class: "comparison", hidden: true }, h("div", { class: "slider" }, other), otherLine);
  const place = h("div", { class: "past" });
  const relatives = h("div");
  const problem = h("p", { class: "field-error", role: "alert" });
  const step = (/** @type {string} */ label, /** @type {string} */ sign, /** @type {number} */ by) =>
    h(
      "button",
      { type: "button", class: "quiet", title: label, onclick: () => go(Number(slider.value) + by) },
      h("span", { "aria-hidden": "true" }, sign),
      h("span", { class: "unseen" }, label),
    );
  const element = h(
    "div",
    { class: "history" },
    h("div", { class: "slider" }, step("One change back", "◂", -1), slider, step("One change on", "▸", 1)),
    line,
    h("label", { class: "inline-label" }, isCompared, " Compare with another point"),
    comparison,
    problem,
    place,
    relatives,
  );
  /** @type {Point[]} */
  let points = [];
  let loadedFor = "";
  let timer = 0;
  let asked = 0;
  /** The work item before which to look, once the points are known. */
  let wanted = "";
  let isEditing = false;

  async function load() {
    try {
      const found = await get(`${path}/history`);
      const isAtEnd = points.length === 0 || Number(slider.value) === points.length - 1;
      points = found.points;
      slider.max = other.max = String(Math.max(0, points.length - 1));
      if (isAtEnd) slider.value = slider.max;
      if (wanted) await goBefore(wanted);
      else if (points.length) look();
      else fill(place, h("p", { class: "muted" }, "Nothing of its past is kept."));
      fill(relatives, familyTree(await get(`${path}/family`), points, runId, goTo));
    } catch (error) {
      fill(place, errorBox(error, load));
    }
  }

  /** @param {number} seq */
  function goTo(seq) {
    go(points.findIndex((point) => point.seq === seq));
    slider.focus();
  }

  /** @param {number} to */
  function go(to) {
    slider.value = String(Math.min(points.length - 1, Math.max(0, to)));
    moved();
  }

  function compare() {
    comparison.hidden = !isCompared.checked;
    other.value = String(Math.max(0, Number(slider.value) - 1));
    moved();
  }

  function moved() {
    showLines();
    clearTimeout(timer);
    timer = setTimeout(look, SETTLE_MS);
  }

  function showLines() {
    for (const [input, text] of /** @type {const} */ ([
      [slider, line],
      [other, otherLine],
    ])) {
      const point = points[Number(input.value)];
      if (point) text.textContent = words(point, points.at(-1)?.seq ?? 0);
    }
  }

  /** Look at the last point before a work item was first executed, with the editor open. @param {string} workId */
  async function goBefore(workId) {
    wanted = "";
    try {
      const { before } = await get(`${path}/history?work=${encodeURIComponent(workId)}`);
      const at = points.findIndex((point) => point.seq === before);
      isEditing = at >= 0;
      if (at >= 0) slider.value = String(at);
      await look();
      if (at < 0) problem.textContent = "What was before this step is not kept.";
    } catch (error) {
      problem.textContent = error.message;
    }
  }

  async function look() {
    const at = Number(slider.value);
    const point = points[at];
    if (!point) return;
    showLines();
    asked += 1;
    const mine = asked;
    const against = isCompared.checked ? points[Number(other.value)] : points[at - 1];
    try {
      /** @type {PastRun} */
      const past = await get(`${path}/history/${point.seq}${against ? `?against=${against.seq}` : ""}`);
      if (mine !== asked) return;
      problem.textContent = "";
      fill(place, shown(past, isCompared.checked ? against : null));
      showPast(at === points.length - 1 ? null : countsAt(points.slice(0, at + 1), past));
    } catch (error) {
      if (mine === asked) problem.textContent = error.message;
    }
  }

  function putBack() {
    loadedFor = "";
    slider.value = slider.max;
    showPast(null);
    rewound();
  }

  /** @param {PastRun} past @param {Point | null} against the point that it is compared with */
  function shown(past, against) {
    const isOpen = isEditing;
    isEditing = false;
    return [
      against ? changesBetween(past, against) : null,
      past.items.length
        ? goOn(path, past, { isOpen, rewound: putBack, problem })
        : h("p", { class: "muted" }, "Nothing was left to do at this point."),
      h(
        "section",
        { class: "part" },
        h("h3", {}, `Live work: ${count(past.items.length + past.items_left_out, "item")}`),
        h(
          "ul",
          { class: "past-items" },
          past.items.map((item) =>
            h(
              "li",
              {},
              h("strong", {}, item.step),
              h("span", { class: "muted" }, ` ${item.doing}`),
              item.events.map((each) => shownValue(each, 1)),
            ),
          ),
        ),
        past.waiters || past.fan_outs
          ? h("p", { class: "muted" }, `${count(past.waiters, "waiter")}, ${count(past.fan_outs, "open fan-out")}`)
          : null,
      ),
      against
        ? null
        : h(
            "section",
            { class: "part" },
            h("h3", {}, "Changed in ", h("code", {}, "ctx.store"), " by this"),
            changeList(past.difference ?? []),
          ),
      h("section", { class: "part" }, h("h3", {}, h("code", {}, "ctx.store"), " then"), stateList(past.state)),
    ];
  }

  return {
    element,
    /** Show it as it was before a work item was first executed. @param {string} workId */
    before(workId) {
      if (points.length) goBefore(workId);
      else wanted = workId;
    },
    /** Read it if it is visible and has changed. @param {Run} run */
    show(run) {
      const now = `${run.status} ${run.head}`;
      if (loadedFor === now || !element.checkVisibility()) return;
      if (loadedFor && Number(slider.value) < points.length - 1) return; // somebody looks at the past
      loadedFor = now;
      load();
    },
  };
}

/** @param {PastRun} past @param {Point} against */
function changesBetween(past, against) {
  const [first, last] = [past.seq, against.seq].sort((a, b) => a - b);
  return h(
    "section",
    { class: "part", "aria-label": "Differences" },
    h("h3", {}, "Changed in ", h("code", {}, "ctx.store"), ` from point ${first} to point ${last}`),
    changeList(past.difference ?? []),
  );
}

/** @type {Record<string, string>} */
const SIGNS = { add: "+", remove: "−", replace: "~" };

/** @param {Change[]} changes */
function changeList(changes) {
  if (changes.length === 0) return h("p", { class: "muted" }, "Nothing.");
  return h(
    "ul",
    { class: "changes" },
    changes.map((each) =>
      h(
        "li",
        { class: each.op },
        h("span", { class: "change-sign", title: each.op }, SIGNS[each.op] ?? each.op),
        h("code", {}, each.path),
        "was" in each ? h("del", {}, gist(each.was, 300)) : null,
        "value" in each ? h("ins", {}, gist(each.value, 300)) : null,
      ),
    ),
  );
}

/** @param {Point} point @param {number} total */
function words(point, total) {
  const what = [
    point.kind,
    point.step,
    point.attempt > 1 ? `attempt ${point.attempt}` : "",
    point.outcome,
    point.event && `→ ${point.event}`,
  ];
  const branch = point.branch ? ` · after ${count(point.branch, "rewind")}` : "";
  return `${point.seq} of ${total} · ${clock(point.at)} · ${what.filter(Boolean).join(" ")}${branch}`;
}

/** What each step had done and was doing. @param {Point[]} points up to there @param {PastRun} past */
function countsAt(points, past) {
  /** @type {Map<string, any>} */
  const counts = new Map();
  const of = (/** @type {string} */ step) => {
    const nothing = {
      queued: 0,
      ready: 0,
      running: 0,
      retrying: 0,
      waiting: 0,
      parked: 0,
      failed: 0,
      done: 0,
      failures: 0,
      rescued: 0,
    };
    if (!counts.has(step)) counts.set(step, { name: step, num_workers: null, longest_ms: 0, total_ms: 0, ...nothing });
    return counts.get(step);
  };
  for (const point of points) if (point.kind === "commit" && DONE.has(point.outcome)) of(point.step).done += 1;
  for (const item of past.items) of(item.step)[item.doing] += 1;
  return counts;
}
