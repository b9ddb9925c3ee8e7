// Loading data again and again while a view is shown and looked at.

import { errorBox, fill, h } from "./dom.js";
import { get } from "./http.js";

/**
 * Load a path now and every few seconds, and hand each answer to `show`.
 *
 * @param {string} path
 * @param {AbortSignal} signal aborts when the view is left
 * @param {number} intervalMs
 * @param {(place: HTMLElement, answer: any) => void | Promise<void>} show
 */
export function polled(path, signal, intervalMs, show) {
  const place = h("div", { class: "polled", "aria-busy": "true" }, h("p", { class: "loading" }, "Loading …"));
  let isShown = false;
  let isLoading = false;
  async function load() {
    if (isLoading || signal.aborted) return;
    isLoading = true;
    try {
      const answer = await get(path, signal);
      if (!isShown) fill(place);
      isShown = true;
      await show(place, answer);
    } catch (error) {
      if (!signal.aborted && (!isShown || error.status >= 400)) {
        isShown = false;
        fill(place, errorBox(error, load));
      }
    }
    isLoading = false;
    place.removeAttribute("aria-busy");
  }
  load();
  const timer = setInterval(() => {
    if (!document.hidden) load();
  }, intervalMs);
  signal.addEventListener("abort", () => clearInterval(timer));
  return { place, load };
}
