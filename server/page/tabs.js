// Tabs as the ARIA pattern has them: arrow keys move, one panel is shown.

import { freshId, h } from "./dom.js";

/**
 * @param {string} label
 * @param {[string, HTMLElement][]} pages title and element of each
 * @param {(title: string) => void} [chosen] called when another one is shown
 */
export function tabs(label, pages, chosen) {
  const list = h("div", { role: "tablist", "aria-label": label, class: "tabs" });
  const made = pages.map(([title, page], at) => {
    const id = freshId("tab");
    const tab = h(
      "button",
      { type: "button", role: "tab", id, "aria-controls": `${id}-page`, onclick: () => choose(at) },
      title,
    );
    const panel = h(
      "div",
      { role: "tabpanel", id: `${id}-page`, "aria-labelledby": id, class: "tab-page", tabindex: "0" },
      page,
    );
    list.append(tab);
    return { tab, panel };
  });

  /** @param {number} wanted */
  function choose(wanted) {
    made.forEach(({ tab, panel }, at) => {
      tab.setAttribute("aria-selected", String(at === wanted));
      tab.tabIndex = at === wanted ? 0 : -1;
      panel.hidden = at !== wanted;
    });
    const { tab } = made[wanted];
    const beyond = tab.getBoundingClientRect().right - list.getBoundingClientRect().right;
    if (beyond > 0) list.scrollLeft += beyond;
    chosen?.(pages[wanted][0]);
  }

  list.addEventListener("keydown", (event) => {
    const at = made.findIndex(({ tab }) => tab === document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: made.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = (to + made.length) % made.length;
    choose(next);
    made[next].tab.focus();
  });
  choose(0);
  return {
    element: h(
      "section",
      { class: "panel tabbed", "aria-label": label },
      list,
      made.map(({ panel }) => panel),
    ),
    choose,
  };
}
