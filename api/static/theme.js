// @ts-check
// Light, dark, or the system's choice. A browser that stores nothing only forgets the choice.

import { announce } from "./elements.js";

const STORAGE_KEY = "retalking-theme";
const LABELS = { system: "◐ Auto", light: "☀ Light", dark: "☾ Dark" };
const THEMES = /** @type {(keyof typeof LABELS)[]} */ (Object.keys(LABELS));

/** @param {HTMLElement} button */
export function startTheme(button) {
  let theme = THEMES.find((each) => each === stored()) ?? "system";
  const show = () => {
    document.documentElement.dataset.theme = theme;
    button.textContent = LABELS[theme];
    button.setAttribute("aria-label", `Colors: ${theme}. Change`);
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    store(theme);
    show();
    announce(`Colors: ${theme}`);
  });
  show();
}

function stored() {
  try {
    return localStorage.getItem(STORAGE_KEY);
  } catch {
    return null;
  }
}

/** @param {string} theme */
function store(theme) {
  try {
    localStorage.setItem(STORAGE_KEY, theme);
  } catch (fault) {
    console.info("The browser stores no settings:", fault);
  }
}
