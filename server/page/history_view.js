// The past of a run: a slider over its changes, what it was like at each, and going on from there.

import { confirmed } from "./dialogs.js";
import { announce, errorBox, fill, h } from "./dom.js";
import { clock, count } from "./format.js";
import { get, post } from "./http.js";
import { jsonText, shownValue } from "./json_view.js";
import { stateList } from "./state_view.js";

/** Outcomes of a commit after which the step is done. */
const DONE = new Set(["returned", "fannedout", "done"]);
/** The pause after the slider was moved. */
const SETTLE_MS = 150;

/**
 * @typedef {{seq: number, at: number, kind: string, step: string, attempt: number, work_id: string, outcome: string,
 *   event: string, branch: number, state_version: number}} Point
 * @typedef {{work_id: string, step: string, doing: string, failures: number, events: ShownEvent[],
 *   is_gathering: boolean}} PastItem
 * @typedef {Point & {status: string, state: (Shown & {key: string})[], items: PastItem[], items_left_out: number,
 *   waiters: number, fan_outs: number, difference: {op: string, path: string, value?: any}[] | null}} PastRun
 */

/**
 * @param {string} path of the run's data
 * @param {(counts: Map<string, any> | null) => void} showPast called with what each step had done at the point that is
 *   shown; null for the present
 * @param {() => void} rewound called when the run was put back
 */
export function historyView(path, showPast, rewound) {
  const slider = h("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "Point in time", oninput: moved });
  const line = h("p", { class: "point-line", role: "status" });
  const place = h("div", { class: "past" });
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
    problem,
    place,
  );
  /** @type {Point[]} */
  let points = [];
  let loadedFor = "";
  let timer = 0;
  let asked = 0;

  async function load() {
    try {
      const found = await get(`${path}/history`);
      const isAtEnd = points.length === 0 || Number(slider.value) === points.length - 1;
      points = found.points;
      slider.max = String(Math.max(0, points.length - 1));
      if (isAtEnd) slider.value = slider.max;
      if (points.length) look();
      else fill(place, h("p", { class: "muted" }, "Nothing of its past is kept."));
    } catch (error) {
      fill(place, errorBox(error, load));
    }
  }

  /** @param {number} to */
  function go(to) {
    slider.value = String(Math.min(points.length - 1, Math.max(0, to)));
    moved();
  }

  function moved() {
    const point = points[Number(slider.value)];
    if (point) line.textContent = words(point, points.length);
    clearTimeout(timer);
    timer = setTimeout(look, SETTLE_MS);
  }

  async function look() {
    const at = Number(slider.value);
    const point = points[at];
    if (!point) return;
    line.textContent = words(point, points.length);
    asked += 1;
    const mine = asked;
    try {
      const before = at > 0 ? `?against=${points[at - 1].seq}` : "";
      /** @type {PastRun} */
      const past = await get(`${path}/history/${point.seq}${before}`);
      if (mine !== asked) return;
      problem.textContent = "";
      fill(place, shown(past));
      showPast(at === points.length - 1 ? null : countsAt(points.slice(0, at + 1), past));
    } catch (error) {
      if (mine === asked) problem.textContent = error.message;
    }
  }

  /** @param {PastRun} past */
  function shown(past) {
    const changes = past.difference ?? [];
    return [
      past.items.length ? goOn(past) : h("p", { class: "muted" }, "Nothing was left to do at this point."),
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
      h(
        "section",
        { class: "part" },
        h("h3", {}, "Changed in ", h("code", {}, "ctx.store"), " by this"),
        changes.length
          ? h(
              "ul",
              { class: "changes" },
              changes.map((each) =>
                h(
                  "li",
                  { class: each.op },
                  h("code", {}, `${each.op} ${each.path}`),
                  "value" in each ? h("code", {}, ` ${jsonText(each.value, 0)}`) : null,
                ),
              ),
            )
          : h("p", { class: "muted" }, "Nothing."),
      ),
      h("section", { class: "part" }, h("h3", {}, h("code", {}, "ctx.store"), " then"), stateList(past.state)),
    ];
  }

  /** Fork and rewind, with an editor for the state and the events of the live work. @param {PastRun} past */
  function goOn(past) {
    const state = area(
      "State",
      Object.fromEntries(past.state.filter((each) => !each.why_not).map((each) => [each.key, each.value])),
    );
    const editable = past.items.filter((item) => !item.is_gathering && item.events[0] && !item.events[0].why_not);
    const events = editable.map((item) => ({
      item,
      ...area(`Event of ${item.step}: ${item.events[0].type}`, item.events[0].value),
    }));

    function edits() {
      /** @type {Record<string, any>} */
      const body = { seq: past.seq };
      const wanted = state.read();
      if (wanted !== undefined) {
        const removed = past.state
          .filter((each) => !each.why_not && !(each.key in wanted))
          .map((each) => [each.key, null]);
        body.state = { ...wanted, ...Object.fromEntries(removed) };
      }
      for (const { item, read } of events) {
        const fields = read();
        if (fields !== undefined) body.events = { ...body.events, [item.work_id]: fields };
      }
      return body;
    }

    /** @param {string} what @param {(answer: any) => void} then */
    async function send(what, then) {
      problem.textContent = "";
      try {
        then(await post(`${path}/${what}`, edits()));
      } catch (error) {
        problem.textContent = error.message;
      }
    }

    async function rewind() {
      const text =
        "The run itself goes on from here. What it is executing is stopped; what was published stays published.";
      if (await confirmed(`Rewind this run to point ${past.seq}?`, text, "Rewind", true))
        send("rewind", () => {
          announce("Rewound.");
          loadedFor = "";
          slider.value = slider.max;
          showPast(null);
          rewound();
        });
    }

    return h(
      "div",
      { class: "go-on" },
      h(
        "details",
        {},
        h("summary", {}, "Edit state and events"),
        h("p", { class: "muted" }, "JSON. What is not changed stays as it was."),
        events.map((each) => each.element),
        state.element,
      ),
      h(
        "p",
        { class: "actions" },
        h(
          "button",
          {
            type: "button",
            class: "primary",
            onclick: () => send("fork", ({ run_id: id }) => (location.hash = `#/runs/${encodeURIComponent(id)}`)),
          },
          "Fork from here",
        ),
        h("button", { type: "button", onclick: rewind }, "Rewind to here"),
      ),
    );
  }

  return {
    element,
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

/** A text area with JSON; `read` gives the value if it was changed. @param {string} label @param {any} value */
function area(label, value) {
  const text = jsonText(value);
  const input = h("textarea", {
    class: "code",
    rows: String(Math.min(12, text.split("\n").length + 1)),
    spellcheck: "false",
  });
  input.value = text;
  const element = h("label", { class: "field" }, h("span", {}, label), input);
  return {
    element,
    read: () => {
      if (input.value === text) return undefined;
      try {
        return JSON.parse(input.value);
      } catch (error) {
        throw new Error(`${label}: not valid JSON: ${error.message}`, { cause: error });
      }
    },
  };
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
