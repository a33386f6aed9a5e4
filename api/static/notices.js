// What went wrong, with what to do about it; and the question before something is lost.

import { Problem } from "./api.js";
import { h } from "./elements.js";
import { title } from "./format.js";

export function problemBox(fault) {
  const problem = fault instanceof Problem ? fault : new Problem({ title: "The console broke", detail: String(fault) }, 0);
  const listed = problem.errors.length > 1
    && h("ul", {}, problem.errors.map((error) => h("li", {}, `${fieldName(error)}: ${error.message}`)));
  return h("div", { class: "notice bad", role: "alert" },
    h("h2", {}, problem.title),
    h("p", {}, problem.message),
    listed,
    problem.advice && h("p", { class: "advice" }, problem.advice),
    h("p", { class: "fine" }, problem.code && h("code", {}, problem.code), " ", problem.requestId));
}

// The error of a failed job, with the advice from the table of codes.
export function failureBox(error, row) {
  return h("div", { class: "notice bad" },
    h("h2", {}, row?.title ?? title(error.code)),
    h("p", {}, error.message),
    row?.advice && h("p", { class: "advice" }, row.advice),
    h("p", { class: "fine" }, h("code", {}, error.code), error.retryable ? " The same job may succeed later." : ""));
}

const fieldName = (error) => error.pointer.replace(/^#\//, "").replaceAll("/", ".");

// True when the person agrees.
export function confirmLoss(heading, text, action) {
  const dialog = document.getElementById("confirm-dialog");
  document.getElementById("confirm-title").textContent = heading;
  document.getElementById("confirm-text").textContent = text;
  document.getElementById("confirm-yes").textContent = action;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
