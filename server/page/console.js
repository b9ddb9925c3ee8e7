// The page: which view an address shows, the token, the colour theme.

import { blank, byId, fill, h } from "./dom.js";
import { get, onReachability, onUnauthorized, token } from "./http.js";
import { runListView } from "./run_list_view.js";
import { runView } from "./run_view.js";
import { theme } from "./theme.js";
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

/** @param {string} address @param {AbortSignal} signal */
async function viewOf(address, signal) {
  const [path, query] = (address.replace(/^#/, "") || "/runs").split("?");
  const [section, ...rest] = path.split("/").filter(Boolean);
  const name = rest.length ? part(rest.join("/")) : null;
  if ((section ?? "runs") === "runs")
    return name === null ? runListView(new URLSearchParams(query), signal, await names()) : runView(name, signal);
  if (section === "workflows") return name === null ? workflowListView(signal) : workflowView(name, signal);
  const element = h(
    "div",
    { class: "view" },
    h("h1", { tabindex: "-1" }, "Not found"),
    blank("There is no page at this address.", null, h("a", { href: "#/runs", class: "button" }, "Runs")),
  );
  return { element, title: "Not found" };
}

/** @param {string} text */
function part(text) {
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
  const section = location.hash.startsWith("#/workflows") ? "workflows" : "runs";
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
onUnauthorized(askForToken);

const notice = byId("notice", HTMLElement);
onReachability((isReachable) => {
  notice.textContent = isReachable ? "" : "Server unreachable, retrying …";
});

theme(byId("theme", HTMLButtonElement));
addEventListener("hashchange", show);
document.querySelector(".skip")?.addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
show();
