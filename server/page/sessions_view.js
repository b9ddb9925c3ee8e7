// Sessions: the list, and one of them with its runs, its state and the versions of that.

import { columnHeading, table } from "./data_table.js";
import { confirmed } from "./dialogs.js";
import { announce, blank, fill, h, panel } from "./dom.js";
import { badge, count, short, timeAgo } from "./format.js";
import { get, getPage, post } from "./http.js";
import { jsonView } from "./json_view.js";
import { patch } from "./patch.js";
import { polled } from "./polling.js";

const REFRESH_MS = 3000;
/** Sessions that are listed, and pages that are read for them: a page may be short although more sessions follow. */
const SESSIONS = 100;
const PAGES = 5;
/** Versions that are listed. */
const VERSIONS = 50;

/** @typedef {{session_id: string, status: string, run_id: string | null, waiting: number, version: number,
 *   is_closed: boolean, changed_at: string}} SessionRow */

/** All sessions. @param {URLSearchParams} query @param {AbortSignal} signal */
export function sessionListView(query, signal) {
  const search = h("input", {
    type: "search",
    id: "session-search",
    placeholder: "beginning of the name",
    value: query.get("q") ?? "",
  });
  const place = h("div");
  let poll = new AbortController();

  function load() {
    poll.abort();
    poll = new AbortController();
    const prefix = encodeURIComponent(search.value.trim());
    const found = polled(
      `sessions?prefix=${prefix}`,
      AbortSignal.any([signal, poll.signal]),
      REFRESH_MS,
      (around, { sessions, areMore }) => {
        const shown = [sessionTable(sessions), areMore ? leftOut() : null];
        if (sessions.length === 0) fill(around, nothing(search.value.trim(), areMore));
        else if (around.querySelector("table")) patch(around, ...shown);
        else fill(around, ...shown);
      },
      firstSessions,
    );
    fill(place, found.place);
  }

  search.addEventListener("input", load);
  load();
  const element = h(
    "div",
    { class: "view" },
    h("h1", { tabindex: "-1" }, "Sessions"),
    h(
      "form",
      { class: "toolbar", role: "search", onsubmit: (event) => event.preventDefault() },
      h("div", { class: "tool grow" }, h("label", { for: "session-search" }, "Search"), search),
    ),
    place,
  );
  return { element, title: "Sessions" };
}

/** The newest sessions, from as many pages as it takes. @param {string} path @param {AbortSignal} signal */
async function firstSessions(path, signal) {
  /** @type {SessionRow[]} */
  const sessions = [];
  /** @type {string | null} */
  let query = path.slice(path.indexOf("?") + 1);
  for (let page = 0; query !== null && page < PAGES && sessions.length < SESSIONS; page++) {
    const [found, next] = await getPage(`sessions?${query}`, signal);
    sessions.push(...found.sessions);
    query = next;
  }
  return { sessions: sessions.slice(0, SESSIONS), areMore: query !== null || sessions.length > SESSIONS };
}

function leftOut() {
  return h("p", { class: "muted", "data-key": "left-out" }, "Older sessions are not shown. Search by name.");
}

/** @param {string} searched @param {boolean} areMore */
function nothing(searched, areMore) {
  if (areMore) return blank("No matching sessions among the newest.", "Older ones were not searched.");
  if (searched) return blank("No matching sessions.", null);
  return blank(
    "No sessions yet.",
    "Runs of a session share its state, one at a time: start one with a session's name.",
  );
}

/** @param {SessionRow[]} sessions */
function sessionTable(sessions) {
  return table(
    "Sessions, the last changed first",
    ["Session", "State", "Waiting runs", "Version", "Changed"].map((each) => columnHeading(each)),
    sessions.map((each) =>
      h(
        "tr",
        { "data-key": each.session_id },
        h(
          "th",
          { scope: "row" },
          h("a", { href: address(each.session_id), class: "row-link", "data-row": true }, each.session_id),
        ),
        h("td", {}, stateBadge(each)),
        h("td", {}, each.waiting ? each.waiting.toLocaleString("en") : "–"),
        h("td", {}, each.version.toLocaleString("en")),
        h("td", {}, timeAgo(Date.parse(each.changed_at))),
      ),
    ),
    "list",
  );
}

/** @param {SessionRow} session */
function stateBadge(session) {
  if (session.is_closed) return h("span", { class: "badge" }, "closed");
  if (session.status === "busy") return badge("running");
  return h("span", { class: "badge" }, "idle");
}

/** @param {string} name */
function address(name) {
  return `#/sessions/${encodeURIComponent(name)}`;
}

/** One session. @param {string} name @param {AbortSignal} signal */
export function sessionView(name, signal) {
  const path = `sessions/${encodeURIComponent(name)}`;
  const facts = h("dl", { class: "facts" });
  const runs = h("div");
  const state = h("div");
  const versions = h("div");
  const problem = h("p", { class: "field-error", role: "alert" });
  let shownVersion = -1;
  /** The version of the state that is shown; null for the present one. @type {number | null} */
  let looked = null;

  /** @param {() => Promise<any>} work */
  async function attempt(work) {
    problem.textContent = "";
    try {
      await work();
      found.load();
    } catch (error) {
      problem.textContent = error.message;
    }
  }

  /** @param {number | null} version */
  async function look(version) {
    looked = version;
    const stored = (await get(`${path}/state${version === null ? "" : `?version=${version}`}`, signal)).state;
    fill(
      state,
      version === null
        ? null
        : h(
            "p",
            { class: "warning" },
            `As it was at version ${version}. `,
            h("button", { type: "button", class: "link", onclick: () => look(null) }, "Show the present state"),
          ),
      Object.keys(stored).length ? jsonView(stored, 2) : h("p", { class: "muted" }, "Empty."),
    );
  }

  async function rewind(/** @type {number} */ to) {
    const text = "The state is put back to that version, as a new version. Runs that were started before are kept.";
    if (await confirmed(`Rewind the state to version ${to}?`, text, "Rewind", true))
      attempt(async () => {
        await post(`${path}/rewind`, { to });
        announce("Rewound.");
        shownVersion = -1;
      });
  }

  /** @param {number} at */
  function fork(at) {
    const copy = `${name}-${at}`;
    attempt(async () => {
      const made = await post(`${path}/fork`, { name: copy, at });
      location.hash = address(made.session_id);
    });
  }

  const body = h(
    "div",
    {},
    problem,
    facts,
    h(
      "div",
      { class: "columns run-columns session-columns" },
      h("div", { class: "column" }, panel("Runs", runs)),
      h("div", { class: "column" }, panel("State", state), panel("Versions of the state", versions)),
    ),
  );
  const found = polled(path, signal, REFRESH_MS, async (around, /** @type {SessionRow} */ session) => {
    if (!around.contains(body)) fill(around, body);
    patch(
      facts,
      fact("State", stateBadge(session)),
      fact("Version", session.version.toLocaleString("en")),
      fact("Waiting runs", session.waiting.toLocaleString("en")),
      fact("Changed", timeAgo(Date.parse(session.changed_at))),
    );
    const listed = (await get(`${path}/runs?limit=50`, signal)).runs;
    patch(runs, runList(listed));
    if (session.version !== shownVersion) {
      shownVersion = session.version;
      if (looked === null) await look(null);
      const { versions: known } = await get(`${path}/versions`, signal);
      fill(versions, versionList(known, look, fork, rewind));
    }
  });
  const element = h(
    "div",
    { class: "view" },
    h("p", { class: "crumbs" }, h("a", { href: "#/sessions" }, "Sessions"), " / "),
    h("h1", { tabindex: "-1" }, name),
    found.place,
  );
  return { element, title: name };
}

/** @param {string} name @param {any} value */
function fact(name, value) {
  return h("div", { "data-key": name }, h("dt", {}, name), h("dd", {}, value));
}

/** @param {{run_id: string, workflow: string, status: string, started_at: string}[]} runs */
function runList(runs) {
  if (runs.length === 0) return h("p", { class: "muted" }, "No runs yet.");
  return h(
    "table",
    { class: "list" },
    h("caption", { class: "unseen" }, "Runs of this session, the latest first"),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ["Run", "Status", "Started"].map((each) => h("th", { scope: "col" }, each)),
      ),
    ),
    h(
      "tbody",
      {},
      runs.map((run) =>
        h(
          "tr",
          { "data-key": run.run_id },
          h(
            "th",
            { scope: "row" },
            h(
              "a",
              {
                href: `#/runs/${encodeURIComponent(run.run_id)}`,
                class: "row-link",
                "data-row": true,
                title: run.run_id,
              },
              short(run.workflow),
            ),
          ),
          h("td", {}, badge(run.status)),
          h("td", {}, timeAgo(Date.parse(run.started_at))),
        ),
      ),
    ),
  );
}

/**
 * @param {{version: number, after: string | null}[]} versions
 * @param {(version: number) => void} look
 * @param {(version: number) => void} fork
 * @param {(version: number) => void} rewind
 */
function versionList(versions, look, fork, rewind) {
  if (versions.length === 0) return h("p", { class: "muted" }, "None yet.");
  const button = (/** @type {string} */ label, /** @type {() => void} */ act) =>
    h("button", { type: "button", class: "quiet", onclick: act }, label);
  return [
    h(
      "ul",
      { class: "versions" },
      versions.slice(0, VERSIONS).map(({ version, after }, at) =>
        h(
          "li",
          {},
          h("strong", { class: "figure" }, String(version)),
          h(
            "span",
            { class: "muted" },
            after
              ? [" after ", h("a", { href: `#/runs/${encodeURIComponent(after)}`, class: "id" }, after.slice(-8))]
              : null,
          ),
          h(
            "span",
            { class: "version-actions" },
            button("Show", () => look(version)),
            button("Fork", () => fork(version)),
            at > 0 ? button("Rewind", () => rewind(version)) : null,
          ),
        ),
      ),
    ),
    versions.length > VERSIONS
      ? h("p", { class: "muted" }, `${count(versions.length - VERSIONS, "older one")} not shown.`)
      : null,
  ];
}
