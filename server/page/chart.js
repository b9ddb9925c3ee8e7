// Small charts as plain SVG.

import { h, s } from "./dom.js";
import { count } from "./format.js";

const HEIGHT = 120;
const AXIS = 18;

/** Statuses from the bottom of a bar to its top. */
const STACK = ["completed", "cancelled", "timed_out", "failed"];

/**
 * Runs that ended, stacked by status.
 *
 * @param {Overview["ended"]} ended
 * @param {number} width
 */
export function endedChart(ended, width) {
  const parts = ended.counts.completed?.length ?? 0;
  const totals = Array.from({ length: parts }, (_, at) =>
    STACK.reduce((sum, each) => sum + (ended.counts[each]?.[at] ?? 0), 0),
  );
  const most = Math.max(1, ...totals);
  const step = width / Math.max(1, parts);
  const scale = (HEIGHT - AXIS - 8) / most;
  const bars = totals.map((total, at) => {
    let y = HEIGHT - AXIS;
    const stack = STACK.map((status) => {
      const number = ended.counts[status]?.[at] ?? 0;
      const height = number * scale;
      y -= height;
      return number
        ? s("rect", {
            class: `ended ${status}`,
            x: at * step + 1,
            y,
            width: Math.max(1, step - 2),
            height: Math.max(1, height),
            rx: 1.5,
          })
        : null;
    });
    const words = STACK.filter((status) => ended.counts[status]?.[at]).map(
      (each) => `${ended.counts[each][at]} ${each.replace("_", " ")}`,
    );
    const title = `${time(ended.since_at + at * ended.part_seconds * 1000)}: ${words.join(", ") || "none"}`;
    return s(
      "g",
      {},
      s("title", {}, title),
      s("rect", { class: "hit", x: at * step, y: 0, width: step, height: HEIGHT - AXIS }),
      total ? stack : null,
    );
  });
  const label = `${count(
    totals.reduce((a, b) => a + b, 0),
    "run",
  )} ended in the last hour, at most ${most} in ${ended.part_seconds / 60} minutes`;
  const marks = [0, 0.5, 1].map((share) =>
    s(
      "text",
      { class: "tick-label", x: share * width, y: HEIGHT - 4, "text-anchor": ["start", "middle", "end"][share * 2] },
      share === 1 ? "now" : time(ended.since_at + share * parts * ended.part_seconds * 1000),
    ),
  );
  return s(
    "svg",
    { role: "img", "aria-label": label, width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}` },
    s("line", { class: "rule", x1: 0, x2: width, y1: HEIGHT - AXIS + 0.5, y2: HEIGHT - AXIS + 0.5 }),
    s("text", { class: "tick-label", x: 0, y: 10 }, most.toLocaleString("en")),
    bars,
    marks,
  );
}

/** @param {number} ms */
function time(ms) {
  return new Date(ms).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
}

/** A bar that shows a share of something. @param {number} share @param {string} [kind] */
export function shareBar(share, kind = "") {
  const width = Math.round(Math.min(1, Math.max(0, share)) * 100);
  return s(
    "svg",
    { class: `share ${kind}`, "aria-hidden": "true", viewBox: "0 0 100 6", preserveAspectRatio: "none" },
    s("rect", { class: "share-ground", width: 100, height: 6 }),
    s("rect", { class: "share-part", width, height: 6 }),
  );
}

/** Names and figures with a bar each. @param {string} caption @param {[any, string, number, string?][]} rows */
export function barTable(caption, rows) {
  const most = Math.max(1, ...rows.map(([, , value]) => value));
  return h(
    "table",
    { class: "bar-table" },
    h("caption", { class: "unseen" }, caption),
    h(
      "tbody",
      {},
      rows.map(([name, figure, value, kind]) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, name),
          h("td", { class: "bar-cell" }, shareBar(value / most, kind)),
          h("td", { class: "figure" }, figure),
        ),
      ),
    ),
  );
}
