// The page: which view an address shows, the token, the colour theme.

import { chatView } from "./chat_view.js";
import { chooseWorkflow, showShortcuts } from "./dialogs.js";
import { blank, byId, fill, h } from "./dom.js";
import { failuresView } from "./failures_view.js";
import { get, onReachability, onUnauthorized, token } from "./http.js";
import { overviewView } from "./overview_view.js";
import { runListView } from "./run_list_view.js";
import { runView } from "./run_view.js";
import { sessionListView, sessionView } from "./sessions_view.js";
import { shortcuts } from "./shortcuts.js";
import { theme } from "./theme.js";
import { workersView } from "./workers_view.js";
import { workflowListView, workflowView } from "./workflow_views.js";

const main = byId("main", HTMLElement);
let leaving = new AbortController();
let isFirst = true;

async function names() {
  try {
    return (await get("workflows")).workflows;
  } catch {
    return [];
  }
}

/** @typedef {{element: HTMLElement, title: string}} View */

/**
 * Section of the address -> its list, and the view of one of its members.
 *
 * @type {Record<string, [(query: URLSearchParams, signal: AbortSignal) => View | Promise<View>,
 *   ((name: string, query: URLSearchParams, signal: AbortSignal) => View)?]>}
 */
const SECTIONS = {
  "": [(_query, signal) => overviewView(signal)],
  runs: [
    async (query, signal) => runListView(query, signal, await names()),
    (name, query, signal) => runView(name, query, signal),
  ],
  workflows: [(_query, signal) => workflowListView(signal), (name, query, signal) => workflowView(name, query, signal)],
  sessions: [(query, signal) => sessionListView(query, signal), (name, _query, signal) => sessionView(name, signal)],
  chat: [(_query, signal) => workflowListView(signal), (name, query, signal) => chatView(name, query, signal)],
  failures: [(query, signal) => failuresView(query, signal)],
  workers: [(_query, signal) => workersView(signal)],
};

/** @param {string} address */
function parts(address) {
  const [path, query] = address.replace(/^#/, "").split("?");
  const [section = "", ...rest] = path.split("/").filter(Boolean);
  return { section, name: rest.length ? decoded(rest.join("/")) : null, query: new URLSearchParams(query) };
}

/** @param {string} address @param {AbortSignal} signal @returns {Promise<View>} */
async function viewOf(address, signal) {
  const { section, name, query } = parts(address);
  const [list, one] = Object.hasOwn(SECTIONS, section) ? SECTIONS[section] : [];
  if (name === null && list) return list(query, signal);
  if (name !== null && one) return one(name, query, signal);
  const element = h(
    "div",
    { class: "view" },
    h("h1", { tabindex: "-1" }, "Not found"),
    blank("There is no page at this address.", null, h("a", { href: "#/runs", class: "button" }, "Runs")),
  );
  return { element, title: "Not found" };
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const view = await viewOf(location.hash, signal);
  if (signal.aborted) return;
  fill(main, view.element);
  document.title = `${view.title} · umbel`;
  const { section } = parts(location.hash);
  for (const link of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("nav a[data-view]"))) {
    if (link.dataset.view === section) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  // Keyboard and screen reader users continue at the new heading, not at the top of the page.
  if (!isFirst) /** @type {HTMLElement | null} */ (main.querySelector("h1"))?.focus({ preventScroll: true });
  isFirst = false;
  scrollTo(0, 0);
}

const dialog = byId("token-dialog", HTMLDialogElement);
const value = byId("token-value", HTMLInputElement);

function askForToken() {
  if (dialog.open) return;
  value.value = "";
  dialog.showModal();
}

dialog.addEventListener("close", () => {
  if (dialog.returnValue !== "use") return;
  token.set(value.value.trim());
  value.value = "";
  show();
});
byId("token", HTMLButtonElement).addEventListener("click", askForToken);
byId("start", HTMLButtonElement).addEventListener("click", chooseWorkflow);
byId("help", HTMLButtonElement).addEventListener("click", showShortcuts);
onUnauthorized(askForToken);

const notice = byId("notice", HTMLElement);
onReachability((isReachable) => {
  notice.textContent = isReachable ? "" : "Server unreachable, retrying …";
});

theme(byId("theme", HTMLButtonElement));
shortcuts(main);
addEventListener("hashchange", show);
document.querySelector(".skip")?.addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
show();
