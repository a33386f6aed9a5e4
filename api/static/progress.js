// Where a job is: its stages, how far it is, its place in the line, and what happened so far.

import { announce, h } from "./elements.js";
import { moment, percent, seconds, title } from "./format.js";
import { isOver } from "./events.js";

const CUT = "The connection is lost. Trying again; nothing that happens is missed.";

export function buildProgress(stages) {
  const steps = new Map(stages.map((name) => [name, h("li", {}, h("span", {}, title(name)))]));
  const bar = h("progress", { max: 1, value: 0, "aria-label": "Progress of the job" });
  const text = h("p", { class: "progress-text" });
  const connection = h("p", { class: "connection", role: "status" });
  const log = h("ol", { class: "history" });
  const live = h("div", {}, h("ol", { class: "stages", "aria-label": "Stages" }, [...steps.values()]), bar, text);
  const element = h("section", { class: "card progress-card", "aria-label": "Progress" }, live, connection,
    h("details", { class: "fold" }, h("summary", {}, h("span", { class: "fold-title" }, "History")), log));
  let told = "";
  const show = (job) => {
    const at = stages.indexOf(job.stage);
    [...steps.values()].forEach((step, index) => markStep(step, index, job.status === "succeeded" ? stages.length : at));
    bar.value = job.progress;
    text.textContent = sentence(job);
    live.hidden = isOver(job.status) && job.status !== "succeeded";
    element.classList.toggle("done", job.status === "succeeded");
    const milestone = `${job.status} ${job.stage ?? ""} ${Math.floor(job.progress * 4)}`;
    if (milestone !== told && !isOver(job.status)) announce(sentence(job));
    told = milestone;
  };
  return {
    element, show,
    addEvent: (event) => addEvent(log, event),
    showConnection: (isOn) => { connection.textContent = isOn ? "" : CUT; },
  };
}

function markStep(step, index, at) {
  step.className = index < at ? "past" : index === at ? "now" : "";
  if (index === at) step.setAttribute("aria-current", "step");
  else step.removeAttribute("aria-current");
}

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
    ? `${title(job.status)} after ${seconds((new Date(job.finished_at) - new Date(job.started_at)) / 1000)}`
    : title(job.status);
}

// Events of the same kind and stage are one line, brought up to date.
function addEvent(log, event) {
  const kind = `${event.event} ${event.stage ?? ""}`;
  const text = `${event.event}${event.stage ? `: ${event.stage}` : ""}, ${percent(event.progress)}`;
  const line = h("li", { "data-kind": kind }, h("time", { datetime: event.at }, moment(event.at)), " ", text);
  if (log.lastElementChild?.dataset.kind === kind) log.lastElementChild.replaceWith(line);
  else log.append(line);
}
