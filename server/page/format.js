// Words and figures as people read them.

import { h } from "./dom.js";

/** Status -> sign and word: colour is never the only mark. @type {Record<string, [string, string]>} */
const STATUSES = {
  running: ["●", "running"],
  waiting: ["◔", "waiting"],
  queued: ["◌", "queued"],
  completed: ["✓", "completed"],
  failed: ["✕", "failed"],
  cancelled: ["⊘", "cancelled"],
  timed_out: ["◷", "timed out"],
};

/** The status shown for a run: a running one may only be waiting. @param {ListedRun} run */
export function shownStatus(run) {
  if (run.status !== "running") return run.status;
  if (run.waits_for_admission || run.is_queued) return "queued";
  return run.is_asleep ? "waiting" : "running";
}

/** @param {string} status */
export function statusWord(status) {
  return STATUSES[status]?.[1] ?? status;
}

/** @param {string} status */
export function badge(status) {
  const [sign, word] = STATUSES[status] ?? ["·", status];
  return h("span", { class: `badge ${status}` }, h("span", { "aria-hidden": "true", class: "sign" }, sign), word);
}

/** A duration in words. @param {number | null | undefined} ms */
export function duration(ms) {
  if (ms === null || ms === undefined) return "";
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60 * 48) return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(minutes / 1440)} days`;
}

/** Roughly how long ago. @param {number} ms */
export function ago(ms) {
  if (ms < 10_000) return "just now";
  if (ms < 60_000) return `${Math.floor(ms / 1000)} s ago`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ago`;
  if (ms < 86_400_000) return `${Math.floor(ms / 3_600_000)} h ago`;
  const days = Math.floor(ms / 86_400_000);
  return days === 1 ? "yesterday" : `${days} days ago`;
}

/** An instant with its date, in the browser's time zone. @param {number} ms */
export function instant(ms) {
  return new Date(ms).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/** A `<time>` that shows roughly how long ago, and exactly when on hover. @param {number} ms */
export function timeAgo(ms) {
  const exact = instant(ms);
  return h("time", { datetime: new Date(ms).toISOString(), title: exact }, ago(Date.now() - ms));
}

/** A number with its noun. @param {number} number @param {string} one @param {string} [many] */
export function count(number, one, many) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : (many ?? `${one}s`)}`;
}

/** @param {number} size */
export function bytes(size) {
  if (size < 1024) return count(size, "byte");
  return size < 1 << 20 ? `${(size / 1024).toFixed(1)} kB` : `${(size / (1 << 20)).toFixed(1)} MB`;
}

/** The last part of a dotted name. @param {string | null} name */
export function short(name) {
  return (name ?? "").slice((name ?? "").lastIndexOf(".") + 1);
}

/** The time of day with milliseconds, in the browser's time zone. @param {number} ms */
export function clock(ms) {
  const at = new Date(ms);
  const [hours, minutes, seconds] = [at.getHours(), at.getMinutes(), at.getSeconds()].map((each) =>
    String(each).padStart(2, "0"),
  );
  return `${hours}:${minutes}:${seconds}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}

/** A worker's name without what all have in common. @param {string} name */
export function workerName(name) {
  return name.replace(/^celery@/, "").replace(/^umbel@/, "");
}
