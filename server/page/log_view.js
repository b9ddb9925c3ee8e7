// What steps have logged: of one execution in its drawer, of a whole run in a tab that is loaded when it is opened.

import { errorBox, fill, h } from "./dom.js";
import { clock, count, instant } from "./format.js";
import { get } from "./http.js";

/** Lines that are shown at first; the oldest are left out. */
const SHOWN = 500;

/**
 * Lines in order; each names its step where they are of several.
 *
 * @param {RunLog} log
 * @param {((workId: string) => void) | null} open called with the execution of a line; null where all are of one
 */
export function logLines(log, open) {
  const list = h("ol", { class: "log", tabindex: "0", "aria-label": "Log" });
  const note = h("p", { class: "muted" });
  /** @param {number} many */
  function show(many) {
    const lines = log.lines.slice(-many);
    const before = log.lines.length - lines.length;
    fill(
      note,
      log.is_cut ? "The oldest lines are not kept. " : "",
      log.left_out ? `${count(log.left_out, "older line")} not loaded. ` : "",
      before
        ? h(
            "button",
            { type: "button", class: "link", onclick: () => show(Infinity) },
            `Show ${count(before, "older line")}`,
          )
        : "",
    );
    note.hidden = !note.textContent;
    fill(
      list,
      lines.map((line) => row(line, open)),
    );
  }
  show(SHOWN);
  return h("div", { class: "log-frame" }, note, list);
}

/** @param {LogLine} line @param {((workId: string) => void) | null} open */
function row(line, open) {
  const where = `${line.step}${line.attempt > 1 ? ` (${line.attempt})` : ""}`;
  return h(
    "li",
    { class: `log-line level-${line.level.toLowerCase()}` },
    h("time", { title: instant(line.at) }, clock(line.at)),
    h("span", { class: "log-level" }, line.level),
    open ? h("button", { type: "button", class: "link", onclick: () => open(line.work_id) }, where) : null,
    h("span", { class: "log-text" }, line.logger ? h("span", { class: "muted" }, `${line.logger} `) : null, line.text),
  );
}

/** The log of a run. @param {string} path of the run's data @param {(workId: string) => void} open */
export function logView(path, open) {
  const place = h("div");
  let loadedFor = "";
  let isLoading = false;

  async function load() {
    isLoading = true;
    if (!place.firstChild) fill(place, h("p", { class: "loading" }, "Loading …"));
    try {
      const log = await get(`${path}/log`);
      const list = place.querySelector(".log");
      const isBelow = !list || list.scrollHeight - list.scrollTop - list.clientHeight < 40;
      fill(place, log.lines.length ? logLines(log, open) : none());
      const made = place.querySelector(".log");
      if (made) made.scrollTop = isBelow ? made.scrollHeight : (list?.scrollTop ?? 0);
    } catch (error) {
      fill(place, errorBox(error, load));
    } finally {
      isLoading = false;
    }
  }

  return {
    element: place,
    /** Load it if it is visible and the run has changed. @param {Run} run */
    show(run) {
      const now = run.status === "running" ? `${run.now}` : `${run.status} ${run.head}`;
      if (loadedFor === now || isLoading || !place.checkVisibility()) return;
      loadedFor = now;
      load();
    },
  };
}

function none() {
  return h(
    "p",
    { class: "muted" },
    "Nothing was logged. What steps log at INFO and above, and print, is kept here, unless UMBEL_STEP_LOGS says otherwise.",
  );
}
