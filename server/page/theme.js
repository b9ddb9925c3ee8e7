// Light, dark, or as the system is set; the choice is kept in this browser.

import { fill, h } from "./dom.js";

const KEY = "umbel.theme";
/** @type {Record<string, string>} */
const NEXT = { system: "light", light: "dark", dark: "system" };
/** @type {Record<string, [string, string]>} */
const SIGN = { system: ["◐", "System"], light: ["☀", "Light"], dark: ["☾", "Dark"] };

/** Make the button switch the colour theme. @param {HTMLButtonElement} button */
export function theme(button) {
  const apply = () => {
    if (choice === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice;
    const [sign, word] = SIGN[choice];
    fill(button, sign, h("span", { class: "word" }, word));
    button.setAttribute("aria-label", `Colour theme: ${choice}. Change`);
  };
  let choice = localStorage.getItem(KEY) ?? "";
  if (!(choice in NEXT)) choice = "system";
  apply();
  button.addEventListener("click", () => {
    choice = NEXT[choice];
    localStorage.setItem(KEY, choice);
    apply();
  });
}
