// One run, live: loads its details, follows its events, and passes both to the view.

import { announce, errorBox, fill, h } from "./dom.js";
import { statusWord } from "./format.js";
import { follow, get, post } from "./http.js";
import { showTitle } from "./run_head.js";
import { runParts } from "./run_parts.js";
import { nameOf } from "./run_table.js";
import { workDrawer } from "./work_drawer.js";

/** After an event, details are loaded again after this long … */
const DELAY_MS = 300;
/** … but not sooner than this after the last load … */
const MIN_INTERVAL_MS = 700;
/** … and, while the run is running, at least this often. */
const MAX_INTERVAL_MS = 5000;
/** The pause between loads is at least this many times the last load, so that large runs cost the server little. */
const LOAD_FACTOR = 6;

/**
 * @param {string} runId
 * @param {URLSearchParams} query `work` names the execution that is open
 * @param {AbortSignal} signal aborts when the view is left
 */
export function runView(runId, query, signal) {
  const path = `console/runs/${encodeURIComponent(runId)}`;
  const place = h("div", { "aria-busy": "true" }, h("p", { class: "loading" }, "Loading …"));
  const title = h("h1", { tabindex: "-1" }, "Run");
  const element = h(
    "div",
    { class: "view run-view" },
    h("p", { class: "crumbs" }, h("a", { href: "#/runs" }, "Runs"), " / "),
    title,
    place,
  );
  const drawer = workDrawer(
    path,
    () => run,
    (workId) => {
      if (signal.aborted) return;
      const address = `#/runs/${encodeURIComponent(runId)}`;
      history.replaceState(null, "", workId ? `${address}?work=${encodeURIComponent(workId)}` : address);
    },
    (workId) => parts?.forkBefore(workId),
  );
  /** @type {Run | null} */
  let run = null;
  /** @type {ReturnType<typeof runParts> | null} */
  let parts = null;
  let due = 0;
  let isLoading = false;
  let loadAgain = false;
  let lastLoad = 0;
  let took = 0;

  /** @returns {Promise<Run | null>} */
  const load = async () => {
    if (isLoading) {
      loadAgain = true;
      return run;
    }
    isLoading = true;
    lastLoad = Date.now();
    try {
      /** @type {Run} */
      const found = await get(path, signal);
      took = Date.now() - lastLoad;
      const before = run?.status;
      if (run === null || parts === null) parts = await build(found);
      run = found;
      showTitle(title, run);
      parts.show(run);
      if (before && before !== run.status) announce(`The run is ${statusWord(run.status)}.`);
    } catch (error) {
      if (!signal.aborted && (run === null || error.status >= 400))
        fill(place, errorBox(error, error.status === 404 ? null : again));
      if (run !== null && error.status >= 400) run = null;
    } finally {
      isLoading = false;
      place.removeAttribute("aria-busy");
    }
    if (loadAgain && !signal.aborted) {
      loadAgain = false;
      soon();
    }
    return run;
  };

  /** Load the details again, but not too often. */
  function soon() {
    if (due || signal.aborted) return;
    const wait = Math.max(DELAY_MS, MIN_INTERVAL_MS - (Date.now() - lastLoad), LOAD_FACTOR * took);
    due = setTimeout(() => {
      due = 0;
      load();
    }, wait);
  }

  /** @param {Run} found */
  async function build(found) {
    const graph = await get(`${path}/graph`, signal);
    const built = runParts(found, graph, path, { act, sent: soon }, drawer);
    fill(place, built.element);
    document.title = `${nameOf(found)} ${runId.slice(0, 8)} · umbel`;
    const opened = query.get("work");
    if (opened) setTimeout(() => drawer.open(opened));
    return built;
  }

  /** @param {"retry" | "cancel"} what */
  async function act(what) {
    await post(`${path}/${what}`);
    await load();
    wake();
  }

  /** Ends the pause early after an action on this page. */
  let wake = () => {};
  /** @returns {Promise<void>} */
  function pause() {
    return new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, MAX_INTERVAL_MS);
    });
  }

  function again() {
    listening.abort();
    run = null;
    last = -1;
    start();
  }

  async function start() {
    await load();
    if (run !== null && !signal.aborted && !document.hidden) listen();
  }

  let last = -1;
  let listening = new AbortController();

  /** Follow the events from where it stopped. */
  async function listen() {
    listening.abort();
    listening = new AbortController();
    const { signal: mine } = listening;
    try {
      await follow(`${path}/events`, last, mine, {
        event: (sequence, envelope, origin) => {
          last = sequence;
          parts?.event(sequence, envelope, origin);
          soon();
        },
        state: (state) => parts?.connection(state),
        continues: async () => {
          // The stream ends with the run; a run that was retried has more events.
          for (;;) {
            const now = await load();
            if (mine.aborted || now === null) return false;
            if (now.status === "running" || now.head > last) return true;
            if (now.status === "completed") return false;
            parts?.connection("ended");
            await pause();
          }
        },
      });
    } catch (error) {
      if (!mine.aborted) parts?.connection("refused", error.message);
    }
  }

  // A browser opens few connections to one server: a hidden tab closes its own.
  function onVisibility() {
    if (document.hidden) {
      listening.abort();
      parts?.connection("paused");
    } else {
      start();
    }
  }

  start();
  document.addEventListener("visibilitychange", onVisibility);
  const timer = setInterval(() => {
    if (document.hidden || run === null) return;
    parts?.tick(run);
    if (run.status === "running" && Date.now() - lastLoad > MAX_INTERVAL_MS) load();
  }, 500);
  signal.addEventListener("abort", () => {
    for (const open of document.querySelectorAll("dialog.drawer")) open.remove();
    listening.abort();
    document.removeEventListener("visibilitychange", onVisibility);
    clearInterval(timer);
    clearTimeout(due);
  });
  return { element, title: runId.slice(0, 8) };
}
