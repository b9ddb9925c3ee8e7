// The page: which view an address shows, the token, the colours.

import { blank, fill, h } from "./dom.js";
import { get, onReached, onUnauthorized, token } from "./http.js";
import { runListView } from "./run_list_view.js";
import { runView } from "./run_view.js";
import { theme } from "./theme.js";
import { workflowListView, workflowView } from "./workflow_views.js";

const main = document.getElementById("main");
let leaving = new AbortController();
let isFirst = true;

async function names() {
  try {
    return (await get("workflows")).workflows;
  } catch {
    return [];
  }
}

async function viewOf(address, signal) {
  const [path, query] = (address.replace(/^#/, "") || "/runs").split("?");
  const [section, ...rest] = path.split("/").filter(Boolean);
  const name = rest.length ? part(rest.join("/")) : null;
  if ((section ?? "runs") === "runs")
    return name === null ? runListView(new URLSearchParams(query), signal, await names()) : runView(name, signal);
  if (section === "workflows") return name === null ? workflowListView(null, signal) : workflowView(name, signal);
  const element = h(
    "div",
    { class: "view" },
    h("h1", { tabindex: "-1" }, "Not found"),
    blank("There is nothing at this address.", null, h("a", { href: "#/runs", class: "button" }, "Runs")),
  );
  return { element, title: "Not found" };
}

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
  for (const link of document.querySelectorAll("nav a[data-view]")) {
    if (link.dataset.view === section) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  // Whoever moves by keyboard or listens goes on at the new heading, not at the top of the page.
  if (!isFirst) main.querySelector("h1")?.focus({ preventScroll: true });
  isFirst = false;
  scrollTo(0, 0);
}

const dialog = document.getElementById("token-dialog");
const value = document.getElementById("token-value");

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
document.getElementById("token").addEventListener("click", askForToken);
onUnauthorized(askForToken);

const notice = document.getElementById("notice");
onReached((isThere) => {
  notice.textContent = isThere ? "" : "The server does not answer; trying again …";
});

theme(document.getElementById("theme"));
addEventListener("hashchange", show);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
show();
