// @ts-check
// The API key: kept in this tab, requested when the service requires one.

import { byId } from "./elements.js";

const STORAGE_KEY = "retalking-key";

export class Keyring {
  #dialog = /** @type {HTMLDialogElement} */ (byId("key-dialog"));
  #field = /** @type {HTMLInputElement} */ (byId("key-value"));
  #button = byId("key");
  /** @type {Promise<string | null> | null} */
  #asking = null;

  constructor() {
    this.#button.addEventListener("click", () => this.ask("Sent with every call, if this service requires one."));
    byId("key-forget").addEventListener("click", () => {
      sessionStorage.removeItem(STORAGE_KEY);
      this.#dialog.close("forgotten");
    });
    byId("key-cancel").addEventListener("click", () => this.#dialog.close("canceled"));
    this.#show();
  }

  get key() {
    return sessionStorage.getItem(STORAGE_KEY);
  }

  /** @returns {Record<string, string>} */
  get headers() {
    return this.key ? { Authorization: `Bearer ${this.key}` } : {};
  }

  /**
   * The key that was entered, or null. Calls made while the dialog is open share its answer.
   * @param {string} reason
   */
  ask(reason) {
    this.#asking ??= this.#open(reason).finally(() => {
      this.#asking = null;
      this.#show();
    });
    return this.#asking;
  }

  /** @param {string} reason @returns {Promise<string | null>} */
  #open(reason) {
    byId("key-reason").textContent = reason;
    this.#field.value = "";
    this.#dialog.returnValue = "";
    this.#dialog.showModal();
    this.#field.focus();
    return new Promise((resolve) => {
      this.#dialog.addEventListener("close", () => resolve(this.#take()), { once: true });
    });
  }

  // Header values are visible ASCII; anything else, such as a pasted line break, cannot be part of a key.
  #take() {
    const entered = this.#field.value.replace(/[^\x21-\x7e]/g, "");
    this.#field.value = "";
    if (["canceled", "forgotten"].includes(this.#dialog.returnValue) || !entered) return null;
    sessionStorage.setItem(STORAGE_KEY, entered);
    return entered;
  }

  #show() {
    this.#button.textContent = this.key ? "API key ✓" : "API key";
    this.#button.setAttribute("aria-label", this.key ? "API key: one is in use" : "API key: none is in use");
  }
}
