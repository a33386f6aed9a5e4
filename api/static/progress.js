// @ts-check
// The progress of a job: stages, percentage, place in the queue, and history.
/** @import { Job, JobEvent } from "#types" */

import { announce, h } from "./elements.js";
import { moment, percent, seconds, title } from "./format.js";
import { isOver } from "./events.js";

const DISCONNECTED = "The connection is lost. Reconnecting; no event is missed.";

/** @param {string[]} stages */
export function buildProgress(stages) {
  const steps = new Map(stages.map((name) => [name, h("li", {}, h("span", {}, title(name)))]));
  const bar = h("progress", { max: 1, value: 0, "aria-label": "Progress of the job" });
  const text = h("p", { class: "progress-text" });
  const connection = h("p", { class: "connection", role: "status" });
  const log = h("ol", { class: "history" });
  const live = h("div", {}, h("ol", { class: "stages", "aria-label": "Stages" }, [...steps.values()]), bar, text);
  const element = h("section", { class: "card progress-card", "aria-label": "Progress" }, live, connection,
    h("details", { class: "fold" }, h("summary", {}, h("span", { class: "fold-title" }, "History")), log));
  let announced = "";
  const show = (/** @type {Job} */ job) => {
    const at = stages.indexOf(job.stage ?? "");
    const now = job.status === "succeeded" ? stages.length : at;
    [...steps.values()].forEach((step, index) => markStep(step, index, now));
    bar.value = job.progress;
    text.textContent = sentence(job);
    live.hidden = isOver(job.status) && job.status !== "succeeded";
    element.classList.toggle("done", job.status === "succeeded");
    const milestone = `${job.status} ${job.stage ?? ""} ${Math.floor(job.progress * 4)}`;
    if (milestone !== announced && !isOver(job.status)) announce(sentence(job));
    announced = milestone;
  };
  return {
    element, show,
    addEvent: (/** @type {JobEvent} */ event) => addEvent(log, event),
    showConnection: (/** @type {boolean} */ isConnected) => {
      connection.textContent = isConnected ? "" : DISCONNECTED;
    },
  };
}

/** @param {HTMLElement} step @param {number} index @param {number} at */
function markStep(step, index, at) {
  step.className = index < at ? "past" : index === at ? "now" : "";
  if (index === at) step.setAttribute("aria-current", "step");
  else step.removeAttribute("aria-current");
}

/** @param {Job} job */
export function sentence(job) {
  const left = job.eta_s === null || job.eta_s === undefined ? "" : `, about ${seconds(job.eta_s)} left`;
  if (job.cancel_requested && !isOver(job.status)) return "Being canceled …";
  if (job.status === "queued" && job.stage === "fetch") return "Fetching the inputs from their addresses";
  if (job.status === "queued") {
    const place = job.queue_position ? `, number ${job.queue_position} in the line` : "";
    return `Waiting for a worker${place}${left}`;
  }
  if (job.status === "running") return `${title(job.stage ?? "running")}, ${percent(job.progress)}${left}`;
  return job.finished_at && job.started_at
    ? `${title(job.status)} after ${seconds((Date.parse(job.finished_at) - Date.parse(job.started_at)) / 1000)}`
    : title(job.status);
}

/** Events of the same kind and stage share a line. @param {HTMLElement} log @param {JobEvent} event */
function addEvent(log, event) {
  const kind = `${event.event} ${event.stage ?? ""}`;
  const text = `${event.event}${event.stage ? `: ${event.stage}` : ""}, ${percent(event.progress)}`;
  const line = h("li", { "data-kind": kind }, h("time", { datetime: event.at }, moment(event.at)), " ", text);
  const last = /** @type {HTMLElement | null} */ (log.lastElementChild);
  if (last?.dataset.kind === kind) last.replaceWith(line);
  else log.append(line);
}
