// Light, dark, or as the system says. Only how it looks depends on it, so a browser that keeps nothing is fine.

import { announce } from "./elements.js";

const PLACE = "retalking-theme";
const NAMES = ["system", "light", "dark"];

export function startTheme(button) {
  let theme = NAMES.includes(stored()) ? stored() : "system";
  const show = () => {
    document.documentElement.dataset.theme = theme;
    button.textContent = { system: "◐ Auto", light: "☀ Light", dark: "☾ Dark" }[theme];
    button.setAttribute("aria-label", `Colours: ${theme}. Change`);
  };
  button.addEventListener("click", () => {
    theme = NAMES[(NAMES.indexOf(theme) + 1) % NAMES.length];
    store(theme);
    show();
    announce(`Colours: ${theme}`);
  });
  show();
}

function stored() {
  try {
    return localStorage.getItem(PLACE);
  } catch {
    return null;
  }
}

function store(theme) {
  try {
    localStorage.setItem(PLACE, theme);
  } catch (fault) {
    console.info("The browser keeps no settings:", fault.name);
  }
}
