// Light, dark, or as the system has it; the choice is kept in this browser.

const KEY = "umbel.theme";
const NEXT = { system: "light", light: "dark", dark: "system" };
const SIGN = { system: "◐ System", light: "☀ Light", dark: "☾ Dark" };

export function theme(button) {
  const apply = (choice) => {
    if (choice === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice;
    button.textContent = SIGN[choice];
    button.setAttribute("aria-label", `Colours: ${choice}. Change`);
  };
  let choice = localStorage.getItem(KEY);
  if (!(choice in NEXT)) choice = "system";
  apply(choice);
  button.addEventListener("click", () => {
    choice = NEXT[choice];
    localStorage.setItem(KEY, choice);
    apply(choice);
  });
}
