// Loading data again and again while a view is shown and looked at.

import { errorBox, fill, h } from "./dom.js";
import { get } from "./http.js";

/**
 * Load a path now and every few seconds, and hand each answer to `show`.
 *
 * `load` asked for while an answer is under way loads once more after it: that answer may be older than what was done.
 *
 * @param {string} path
 * @param {AbortSignal} signal aborts when the view is left
 * @param {number} intervalMs
 * @param {(place: HTMLElement, answer: any) => void | Promise<void>} show
 * @param {(path: string, signal: AbortSignal) => Promise<any>} read
 */
export function polled(path, signal, intervalMs, show, read = get) {
  const place = h("div", { class: "polled", "aria-busy": "true" }, h("p", { class: "loading" }, "Loading …"));
  let isShown = false;
  let isLoading = false;
  let isAskedAgain = false;
  async function load() {
    if (signal.aborted) return;
    if (isLoading) {
      isAskedAgain = true;
      return;
    }
    isLoading = true;
    try {
      const answer = await read(path, signal);
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
    if (isAskedAgain) {
      isAskedAgain = false;
      load();
    }
  }
  load();
  const timer = setInterval(() => {
    if (!document.hidden && !isLoading) load();
  }, intervalMs);
  signal.addEventListener("abort", () => clearInterval(timer));
  return { place, load };
}
