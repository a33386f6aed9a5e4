// The API key: kept in this tab, asked for when the service wants one.

const PLACE = "retalking-key";

export class Keyring {
  #dialog = document.getElementById("key-dialog");
  #field = document.getElementById("key-value");
  #button = document.getElementById("key");
  #asking = null;

  constructor() {
    this.#button.addEventListener("click", () => this.ask("Sent with every call, where this service asks for one."));
    document.getElementById("key-forget").addEventListener("click", () => {
      sessionStorage.removeItem(PLACE);
      this.#dialog.close("forgotten");
    });
    document.getElementById("key-cancel").addEventListener("click", () => this.#dialog.close("canceled"));
    this.#show();
  }

  get key() {
    return sessionStorage.getItem(PLACE);
  }

  get headers() {
    return this.key ? { Authorization: `Bearer ${this.key}` } : {};
  }

  // The key that was entered, or null. Calls that come while the dialog is open wait for the same answer.
  ask(reason) {
    this.#asking ??= this.#open(reason).finally(() => {
      this.#asking = null;
      this.#show();
    });
    return this.#asking;
  }

  #open(reason) {
    document.getElementById("key-reason").textContent = reason;
    this.#field.value = "";
    this.#dialog.returnValue = "";
    this.#dialog.showModal();
    this.#field.focus();
    return new Promise((resolve) => {
      this.#dialog.addEventListener("close", () => resolve(this.#take()), { once: true });
    });
  }

  // Header values are visible ASCII: anything else, as a pasted line break, is no part of a key.
  #take() {
    const entered = this.#field.value.replace(/[^\x21-\x7e]/g, "");
    this.#field.value = "";
    if (["canceled", "forgotten"].includes(this.#dialog.returnValue) || !entered) return null;
    sessionStorage.setItem(PLACE, entered);
    return entered;
  }

  #show() {
    this.#button.textContent = this.key ? "API key ✓" : "API key";
    this.#button.setAttribute("aria-label", this.key ? "API key: one is in use" : "API key: none is in use");
  }
}
