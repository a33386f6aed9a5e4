// The list of jobs: filter, paging, and what can be done with each.

import { isOver, pause } from "./events.js";
import { announce, h } from "./elements.js";
import { moment, percent, seconds, shortId } from "./format.js";
import { removeJob } from "./job_actions.js";
import { problemBox } from "./notices.js";

const PER_PAGE = 12;
const REFRESH_MS = 4000;

// query: URLSearchParams with status and cursor. The cursors of the pages before stand in `before`, newest last.
export async function showJobList(root, { api, signal, query, go }) {
  const { components } = await api.document();
  if (signal.aborted) return;
  const body = h("div", { class: "job-list" });
  const view = { api, signal, query, go, body };
  root.replaceChildren(h("h1", {}, "Jobs"), filterBar(components.schemas.JobStatus.enum, query), body);
  while (!signal.aborted) {
    if (!document.hidden) await refresh(view);
    await pause(REFRESH_MS, signal);
  }
}

function filterBar(statuses, query) {
  const links = [null, ...statuses].map((status) => h("a", {
    href: status ? `#/jobs?status=${status}` : "#/jobs",
    "aria-current": (query.get("status") ?? null) === status ? "true" : null,
  }, status ?? "all"));
  return h("nav", { class: "filters", "aria-label": "Filter by status" }, links);
}

async function refresh(view) {
  const { api, signal, query, body } = view;
  const asked = { limit: PER_PAGE };
  for (const name of ["status", "cursor"]) if (query.get(name)) asked[name] = query.get(name);
  try {
    const page = await api.jobs(asked, { signal });
    // A list that is being used is not pulled from under the pointer or the keyboard.
    const keep = document.activeElement?.closest?.("[data-job]");
    const focused = keep && [keep.dataset.job, document.activeElement.dataset.action];
    body.replaceChildren(page.jobs.length ? table(view, page.jobs) : emptyNote(query), pager(view, page));
    if (focused) body.querySelector(`[data-job="${focused[0]}"] [data-action="${focused[1]}"]`)?.focus();
  } catch (fault) {
    if (fault.name !== "AbortError") body.replaceChildren(problemBox(fault));
  }
}

function emptyNote(query) {
  return h("div", { class: "empty card" },
    h("p", {}, query.get("status") ? `No job is ${query.get("status")}.` : "There are no jobs yet."),
    h("a", { class: "button primary", href: "#/" }, "Make a video"));
}

function table(view, jobs) {
  const heads = ["Status", "Job", "Engine", "Created", "Length", ""];
  return h("table", { class: "jobs" },
    h("caption", { class: "unseen" }, "Jobs, newest first"),
    h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text || h("span", { class: "unseen" }, "Actions"))))),
    h("tbody", {}, jobs.map((job) => row(view, job))));
}

function row(view, job) {
  const name = job.metadata?.title ?? shortId(job.id);
  const progress = job.status === "running" && h("span", { class: "fine" }, ` ${percent(job.progress)}`);
  const place = job.status === "queued" && job.queue_position && h("span", { class: "fine" }, ` no. ${job.queue_position}`);
  const verb = isOver(job.status) ? "Delete" : "Cancel";
  return h("tr", { "data-job": job.id },
    h("td", { "data-head": "Status" }, badge(job.status), progress, place),
    h("td", { "data-head": "Job" }, h("a", { href: `#/jobs/${job.id}`, "data-action": "open", title: job.id }, String(name))),
    h("td", { "data-head": "Engine" }, job.engine ?? job.engine_requested),
    h("td", { "data-head": "Created" }, h("time", { datetime: job.created_at }, moment(job.created_at))),
    h("td", { "data-head": "Length" }, job.result ? seconds(job.result.duration_s) : "–"),
    h("td", { class: "actions" }, h("button", {
      type: "button", class: "quiet small", "data-action": "remove", "aria-label": `${verb} job ${name}`,
      disabled: job.cancel_requested && !isOver(job.status),
      onclick: () => remove(view, job),
    }, verb)));
}

async function remove(view, job) {
  try {
    if (await removeJob(view.api, job)) await refresh(view);
  } catch (fault) {
    view.body.prepend(problemBox(fault));
  }
}

export const badge = (status) => h("span", { class: `badge ${status}` }, status);

function pager({ query, go }, page) {
  const before = query.get("before")?.split(",") ?? [];
  const turn = (cursor, stack) => {
    const next = new URLSearchParams(query);
    for (const [name, value] of [["cursor", cursor], ["before", stack.join(",")]]) {
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
