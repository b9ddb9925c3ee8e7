// One run, live: asks for its details, follows its events, and gives both to what is shown of it.

import { announce, fill, h, trouble } from "./dom.js";
import { statusWord } from "./format.js";
import { follow, get, post } from "./http.js";
import { runParts } from "./run_parts.js";

/** Details are asked for again at most this often while events come, and at least so often while the run goes on. */
const SOON = 300;
const PAUSE = 700;
const CALM = 5000;
/** Of a large run an answer takes its time: the pause is so many times as long, so that it stays a small burden. */
const SHARE = 6;

/** @param runId of the run. */
export function runView(runId, signal) {
  const path = `console/runs/${encodeURIComponent(runId)}`;
  const place = h("div", { "aria-busy": "true" }, h("p", { class: "loading" }, "Loading …"));
  const element = h(
    "div",
    { class: "view" },
    h("p", { class: "crumbs" }, h("a", { href: "#/runs" }, "Runs"), " / "),
    h("h1", { tabindex: "-1", class: "id" }, runId),
    place,
  );
  let run = null;
  let parts = null;
  let due = 0;
  let asking = false;
  let askAgain = false;
  let lastAsked = 0;
  let took = 0;

  const load = async () => {
    if (asking) {
      askAgain = true;
      return run;
    }
    asking = true;
    lastAsked = Date.now();
    try {
      const found = await get(path, signal);
      took = Date.now() - lastAsked;
      const before = run?.status;
      if (run === null) await build(found);
      run = found;
      parts.show(run);
      if (before && before !== run.status) announce(`The run is ${statusWord(run.status)}.`);
    } catch (error) {
      if (!signal.aborted && (run === null || error.status >= 400))
        fill(place, trouble(error, error.status === 404 ? null : again));
      if (run !== null && error.status >= 400) run = null;
    } finally {
      asking = false;
      place.removeAttribute("aria-busy");
    }
    if (askAgain && !signal.aborted) {
      askAgain = false;
      soon();
    }
    return run;
  };

  /** Ask for the details again, not too often. */
  function soon() {
    if (due || signal.aborted) return;
    const wait = Math.max(SOON, PAUSE - (Date.now() - lastAsked), SHARE * took);
    due = setTimeout(() => {
      due = 0;
      load();
    }, wait);
  }

  async function build(found) {
    const graph = await get(`${path}/graph`, signal);
    parts = runParts(found, graph, { act, sent: soon });
    fill(place, parts.element);
  }

  async function act(what) {
    await post(`${path}/${what}`);
    await load();
    wake();
  }

  /** A pause that ends early when something was done here. */
  let wake = () => {};
  function calm() {
    return new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, CALM);
    });
  }

  function again() {
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

  /** Follow the events from where it was broken off. */
  async function listen() {
    listening.abort();
    listening = new AbortController();
    const { signal: mine } = listening;
    try {
      await follow(`${path}/events`, last, mine, {
        event: (sequence, envelope) => {
          last = sequence;
          parts.event(sequence, envelope, run);
          soon();
        },
        state: (state) => parts.connection(state),
        goesOn: async () => {
          // The stream ends with the run; a run that was taken up again has more to tell.
          for (;;) {
            const now = await load();
            if (mine.aborted || now === null) return false;
            if (now.status === "running" || now.head > last) return true;
            if (now.status === "completed") return false;
            parts.connection("ended");
            await calm();
          }
        },
      });
    } catch (error) {
      if (!mine.aborted) parts.connection("refused", error.message);
    }
  }

  // A browser has few connections to one server: a tab that nobody looks at gives its own back.
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
    parts.tick(run);
    if (run.status === "running" && Date.now() - lastAsked > CALM) load();
  }, 500);
  signal.addEventListener("abort", () => {
    listening.abort();
    document.removeEventListener("visibilitychange", onVisibility);
    clearInterval(timer);
    clearTimeout(due);
  });
  return { element, title: runId };
}
