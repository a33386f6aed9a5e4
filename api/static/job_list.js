// @ts-check
// The list of jobs: filter, paging, cancel and delete.
/** @import { BatchSummary, Job, JobStatus, PageContext } from "#types" */
/** @import { Api } from "./api.js" */

import { isOver, pause } from "./events.js";
import { announce, h } from "./elements.js";
import { moment, percent, seconds, shortId } from "./format.js";
import { removeJob } from "./job_actions.js";
import { problemBox } from "./notices.js";

const PER_PAGE = 12;
const REFRESH_MS = 4000;

/**
 * What a list needs: where it is shown, and how it is read again.
 * @typedef {{ api: Api, body: HTMLElement, refresh: () => Promise<void> }} View
 */

/**
 * @param {URLSearchParams} query status, batch, cursor, and `before`: the cursors of the pages before, newest last
 * @param {HTMLElement} root
 * @param {PageContext} context
 */
export async function showJobList(query, root, { api, signal, go }) {
  const { components } = await api.document();
  if (signal.aborted) return;
  const body = h("div", { class: "job-list" });
  const batch = query.get("batch");
  root.replaceChildren(h("h1", {}, "Jobs"),
    batch ? h("p", {}, "Those of ", h("a", { href: `#/batches/${batch}` }, "one batch"), ".") : "",
    filterBar(components.schemas.JobStatus.enum ?? [], query), body);
  const view = { api, body, refresh: () => refresh(view, query, { signal, go }) };
  await keepFresh(view, signal);
}

/** Reads the list again and again, while the page is seen. @param {View} view @param {AbortSignal} signal */
export async function keepFresh(view, signal) {
  while (!signal.aborted) {
    if (!document.hidden) await view.refresh();
    await pause(REFRESH_MS, signal);
  }
}

/** @param {string[]} statuses @param {URLSearchParams} query */
function filterBar(statuses, query) {
  const batch = query.get("batch");
  const links = [null, ...statuses].map((status) => h("a", {
    href: jobsAddress({ status, batch }),
    "aria-current": (query.get("status") ?? null) === status ? "true" : null,
  }, status ?? "all"));
  return h("nav", { class: "filters", "aria-label": "Filter by status" }, links);
}

/** @param {{ status?: string | null, batch?: string | null }} filters */
export function jobsAddress(filters) {
  const given = Object.entries(filters).flatMap(([name, value]) => (value ? [[name, value]] : []));
  return given.length ? `#/jobs?${new URLSearchParams(given)}` : "#/jobs";
}

/**
 * @param {View} view
 * @param {URLSearchParams} query
 * @param {{ signal: AbortSignal, go: (hash: string) => void }} page
 */
async function refresh(view, query, { signal, go }) {
  /** @type {Record<string, string>} */
  const request = { limit: String(PER_PAGE) };
  for (const name of ["status", "batch", "cursor"]) {
    const value = query.get(name);
    if (value) request[name] = value;
  }
  try {
    const page = await view.api.jobs(request, { signal });
    replaceRows(view.body, page.jobs.length ? jobTable(view, page.jobs) : emptyNote(query),
      pager("#/jobs", "jobs", query, page.next_cursor, go));
  } catch (fault) {
    if (!signal.aborted) view.body.replaceChildren(problemBox(fault));
  }
}

/**
 * Keeps the keyboard focus: the same control of the same row has it again.
 * @param {HTMLElement} body
 * @param {(Node | string)[]} contents
 */
export function replaceRows(body, ...contents) {
  const active = /** @type {HTMLElement | null} */ (document.activeElement);
  const row = /** @type {HTMLElement | null | undefined} */ (active?.closest("[data-row]"));
  const focused = row && `[data-row="${row.dataset.row}"] [data-action="${active?.dataset.action}"]`;
  body.replaceChildren(...contents);
  const target = focused && body.querySelector(focused);
  if (target instanceof HTMLElement) target.focus();
}

/** @param {URLSearchParams} query */
function emptyNote(query) {
  return h("div", { class: "empty card" },
    h("p", {}, query.get("status") ? `No job is ${query.get("status")}.` : "There are no jobs yet."),
    h("a", { class: "button primary", href: "#/" }, "Make a video"));
}

/** @param {View} view @param {Job[]} jobs */
export function jobTable(view, jobs) {
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
  return h("tr", { "data-job": job.id, "data-row": job.id },
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
    if (await removeJob(view.api, job)) await view.refresh();
  } catch (fault) {
    view.body.prepend(problemBox(fault));
  }
}

/** @param {JobStatus | BatchSummary["status"]} status */
export const badge = (status) => h("span", { class: `badge ${status}` }, status);

/**
 * @param {string} address of the list
 * @param {string} items what it lists
 * @param {URLSearchParams} query
 * @param {string | null} following the next cursor
 * @param {(hash: string) => void} go
 */
export function pager(address, items, query, following, go) {
  const before = query.get("before")?.split(",") ?? [];
  const turn = (/** @type {string | null | undefined} */ cursor, /** @type {string[]} */ stack) => {
    const next = new URLSearchParams(query);
    for (const [name, value] of Object.entries({ cursor, before: stack.join(",") })) {
      if (value) next.set(name, value);
      else next.delete(name);
    }
    announce(`Another page of ${items}`);
    go(`${address}?${next}`);
  };
  const isFirst = !query.get("cursor");
  if (isFirst && !following) return "";
  const older = () => turn(following, [...before, query.get("cursor") ?? "c"]);
  const newer = () => turn(before.at(-1)?.replace(/^c$/, ""), before.slice(0, -1));
  return h("nav", { class: "pager row", "aria-label": "Pages" },
    h("button", { type: "button", class: "quiet", disabled: isFirst, onclick: newer }, "← Newer"),
    h("button", { type: "button", class: "quiet", disabled: !following, onclick: older }, "Older →"));
}
