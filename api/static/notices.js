// @ts-check
// Error messages with advice, and the confirmation before something is lost.
/** @import { ErrorRow, FieldError, JobError } from "#types" */

import { Problem } from "./api.js";
import { byId, h } from "./elements.js";
import { title } from "./format.js";

/** @param {unknown} fault */
export function problemBox(fault) {
  const problem = fault instanceof Problem ? fault : new Problem({ title: "Console error", detail: String(fault) }, 0);
  const listed = problem.errors.length > 1
    && h("ul", {}, problem.errors.map((error) => h("li", {}, `${fieldName(error)}: ${error.message}`)));
  return h("div", { class: "notice bad", role: "alert" },
    h("h2", {}, problem.title),
    h("p", {}, problem.message),
    listed,
    problem.advice && h("p", { class: "advice" }, problem.advice),
    h("p", { class: "fine" }, problem.code && h("code", {}, problem.code), " ", problem.requestId));
}

/**
 * The error of a failed job, with the advice from the table of codes.
 * @param {JobError} error
 * @param {ErrorRow} [row]
 */
export function failureBox(error, row) {
  return h("div", { class: "notice bad" },
    h("h2", {}, row?.title ?? title(error.code)),
    h("p", {}, error.message),
    row?.advice && h("p", { class: "advice" }, row.advice),
    h("p", { class: "fine" }, h("code", {}, error.code), error.retryable ? " The same job may succeed later." : ""));
}

/** @param {FieldError} error */
const fieldName = (error) => error.pointer.replace(/^#\//, "").replaceAll("/", ".");

/**
 * True if the user confirms.
 * @param {string} heading
 * @param {string} text
 * @param {string} action
 * @returns {Promise<boolean>}
 */
export function confirmLoss(heading, text, action) {
  const dialog = /** @type {HTMLDialogElement} */ (byId("confirm-dialog"));
  byId("confirm-title").textContent = heading;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = action;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
