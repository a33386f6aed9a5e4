// @ts-check
// The list of jobs: filter, paging, cancel and delete.
/** @import { Job, JobList, JobStatus, PageContext } from "#types" */

import { isOver, pause } from "./events.js";
import { announce, h } from "./elements.js";
import { moment, percent, seconds, shortId } from "./format.js";
import { removeJob } from "./job_actions.js";
import { problemBox } from "./notices.js";

const PER_PAGE = 12;
const REFRESH_MS = 4000;

/** @typedef {PageContext & { query: URLSearchParams, body: HTMLElement }} View */

/**
 * @param {URLSearchParams} query status, cursor, and `before`: the cursors of the pages before, newest last
 * @param {HTMLElement} root
 * @param {PageContext} context
 */
export async function showJobList(query, root, { api, signal, go }) {
  const { components } = await api.document();
  if (signal.aborted) return;
  const body = h("div", { class: "job-list" });
  const view = { api, signal, query, go, body };
  root.replaceChildren(h("h1", {}, "Jobs"), filterBar(components.schemas.JobStatus.enum ?? [], query), body);
  while (!signal.aborted) {
    if (!document.hidden) await refresh(view);
    await pause(REFRESH_MS, signal);
  }
}

/** @param {string[]} statuses @param {URLSearchParams} query */
function filterBar(statuses, query) {
  const links = [null, ...statuses].map((status) => h("a", {
    href: status ? `#/jobs?status=${status}` : "#/jobs",
    "aria-current": (query.get("status") ?? null) === status ? "true" : null,
  }, status ?? "all"));
  return h("nav", { class: "filters", "aria-label": "Filter by status" }, links);
}

/** @param {View} view */
async function refresh(view) {
  const { api, signal, query, body } = view;
  /** @type {Record<string, string>} */
  const request = { limit: String(PER_PAGE) };
  for (const name of ["status", "cursor"]) {
    const value = query.get(name);
    if (value) request[name] = value;
  }
  try {
    const page = await api.jobs(request, { signal });
    // Keep the keyboard focus across a refresh.
    const active = /** @type {HTMLElement | null} */ (document.activeElement);
    const row = /** @type {HTMLElement | null | undefined} */ (active?.closest("[data-job]"));
    const focused = row && `[data-job="${row.dataset.job}"] [data-action="${active?.dataset.action}"]`;
    body.replaceChildren(page.jobs.length ? table(view, page.jobs) : emptyNote(query), pager(view, page));
    const target = focused && body.querySelector(focused);
    if (target instanceof HTMLElement) target.focus();
  } catch (fault) {
    if (!signal.aborted) body.replaceChildren(problemBox(fault));
  }
}

/** @param {URLSearchParams} query */
function emptyNote(query) {
  return h("div", { class: "empty card" },
    h("p", {}, query.get("status") ? `No job is ${query.get("status")}.` : "There are no jobs yet."),
    h("a", { class: "button primary", href: "#/" }, "Make a video"));
}

/** @param {View} view @param {Job[]} jobs */
function table(view, jobs) {
  const heads = ["Status", "Job", "Engine", "Created", "Length", h("span", { class: "unseen" }, "Actions")];
  return h("table", { class: "jobs" },
    h("caption", { class: "unseen" }, "Jobs, newest first"),
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, jobs.map((job) => row(view, job))));
}

/** @param {View} view @param {Job} job */
function row(view, job) {
  const name = String(job.metadata.title ?? shortId(job.id));
  const progress = job.status === "running" && h("span", { class: "fine" }, ` ${percent(job.progress)}`);
  const place = job.status === "queued" && job.queue_position
    && h("span", { class: "fine" }, ` no. ${job.queue_position}`);
  const verb = isOver(job.status) ? "Delete" : "Cancel";
  return h("tr", { "data-job": job.id },
    h("td", { "data-head": "Status" }, badge(job.status), progress, place),
    h("td", { "data-head": "Job" },
      h("a", { href: `#/jobs/${job.id}`, "data-action": "open", title: job.id }, name)),
    h("td", { "data-head": "Engine" }, job.kind === "analyze" ? "analysis" : job.engine ?? job.engine_requested),
    h("td", { "data-head": "Created" }, h("time", { datetime: job.created_at }, moment(job.created_at))),
    h("td", { "data-head": "Length" }, job.result ? seconds(job.result.duration_s) : "–"),
    h("td", { class: "actions" }, h("button", {
      type: "button", class: "quiet small", "data-action": "remove", "aria-label": `${verb} job ${name}`,
      disabled: job.cancel_requested && !isOver(job.status),
      onclick: () => remove(view, job),
    }, verb)));
}

/** @param {View} view @param {Job} job */
async function remove(view, job) {
  try {
    if (await removeJob(view.api, job)) await refresh(view);
  } catch (fault) {
    view.body.prepend(problemBox(fault));
  }
}

/** @param {JobStatus} status */
export const badge = (status) => h("span", { class: `badge ${status}` }, status);

/** @param {View} view @param {JobList} page */
function pager({ query, go }, page) {
  const before = query.get("before")?.split(",") ?? [];
  const turn = (/** @type {string | null | undefined} */ cursor, /** @type {string[]} */ stack) => {
    const next = new URLSearchParams(query);
    for (const [name, value] of Object.entries({ cursor, before: stack.join(",") })) {
      if (value) next.set(name, value);
      else next.delete(name);
    }
    announce("Another page of jobs");
    go(`#/jobs?${next}`);
  };
  const isFirst = !query.get("cursor");
  if (isFirst && !page.next_cursor) return "";
  const older = () => turn(page.next_cursor, [...before, query.get("cursor") ?? "c"]);
  const newer = () => turn(before.at(-1)?.replace(/^c$/, ""), before.slice(0, -1));
  return h("nav", { class: "pager row", "aria-label": "Pages" },
    h("button", { type: "button", class: "quiet", disabled: isFirst, onclick: newer }, "← Newer"),
    h("button", { type: "button", class: "quiet", disabled: !page.next_cursor, onclick: older }, "Older →"));
}
