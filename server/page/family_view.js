// A run among what it was forked from and its forks, as a tree; and its own rewinds.

import { h } from "./dom.js";
import { badge, clock, count, shownStatus, timeAgo } from "./format.js";
import { nameOf } from "./run_table.js";

/**
 * The tree; null if the run is alone and was never rewound.
 *
 * @param {{runs: (ListedRun & {origin: string | null, seq: number})[], is_partial: boolean}} found
 * @param {import("./history_view.js").Point[]} points of the run
 * @param {string} runId the run that is shown
 * @param {(seq: number) => void} go looks at a point
 */
export function familyTree(found, points, runId, go) {
  const rewinds = points.filter((point) => point.kind === "rewind");
  if (found.runs.length < 2 && rewinds.length === 0) return null;
  const known = new Set(found.runs.map((run) => run.run_id));
  const of = (/** @type {string | null} */ origin) =>
    found.runs
      .filter((run) => (run.origin !== null && known.has(run.origin) ? run.origin : null) === origin)
      .sort((a, b) => a.created_at - b.created_at);

  /** @param {ListedRun & {origin: string | null, seq: number}} run @returns {HTMLElement} */
  function branch(run) {
    const isHere = run.run_id === runId;
    const forks = of(run.run_id).map(branch);
    const own = isHere ? rewinds.map(rewound) : [];
    const words = `${nameOf(run)} ${run.run_id.slice(0, 8)}`;
    return h(
      "li",
      {},
      h(
        "div",
        { class: "kin" },
        isHere
          ? h("strong", { "aria-current": "page" }, words)
          : h("a", { href: `#/runs/${encodeURIComponent(run.run_id)}` }, words),
        badge(shownStatus(run)),
        h(
          "span",
          { class: "muted" },
          run.seq ? `from point ${run.seq}, ` : "",
          timeAgo(run.created_at),
          isHere ? ", this run" : "",
        ),
      ),
      own.length || forks.length ? h("ul", {}, own, forks) : null,
    );
  }

  /** @param {import("./history_view.js").Point} point */
  function rewound(point) {
    return h(
      "li",
      {},
      h(
        "div",
        { class: "kin" },
        h("span", { "aria-hidden": "true" }, "↶"),
        h(
          "button",
          { type: "button", class: "link", onclick: () => go(point.seq) },
          `rewound to point ${point.back_to}`,
        ),
        h("span", { class: "muted" }, `point ${point.seq}, ${clock(point.at)}`),
      ),
    );
  }

  return h(
    "section",
    { class: "part family", "aria-label": "Forks and rewinds" },
    h("h3", {}, "Forks and rewinds"),
    h("ul", {}, of(null).map(branch)),
    found.is_partial ? h("p", { class: "muted" }, `Only ${count(found.runs.length, "run")} shown.`) : null,
  );
}
