// @ts-check
// Batches: the list of them with a form to submit one, and one batch with its items.
/** @import { Batch, BatchSummary, PageContext } from "#types" */
/** @import { View } from "./job_list.js" */

import { announce, h, unique } from "./elements.js";
import { moment, shortId } from "./format.js";
import { badge, jobTable, jobsAddress, keepFresh, pager, replaceRows } from "./job_list.js";
import { confirmLoss, problemBox } from "./notices.js";

const PER_PAGE = 12;
const SHOWN_FAILURES = 100;
// A longer list is uploaded: the service limits JSON bodies.
const MOST_BODY_BYTES = 900_000;
const EXAMPLE = '{"video_url": "https:…/face.mp4", "audio_url": "https:…/1.wav"}';

/** @typedef {BatchSummary["counts"]} Counts */

/**
 * @param {URLSearchParams} query cursor, and `before` as in the list of jobs
 * @param {HTMLElement} root
 * @param {PageContext} context
 */
export async function showBatchList(query, root, { api, signal, go }) {
  const body = h("div", { class: "job-list" });
  root.replaceChildren(h("h1", {}, "Batches"), submitForm({ api, signal, go }), body);
  const view = {
    api, body,
    refresh: async () => {
      const cursor = query.get("cursor");
      try {
        const page = await api.batches({ limit: String(PER_PAGE), ...(cursor && { cursor }) }, { signal });
        replaceRows(body, page.batches.length ? batchTable(page.batches) : emptyNote(),
          pager("#/batches", "batches", query, page.next_cursor, go));
      } catch (fault) {
        if (!signal.aborted) body.replaceChildren(problemBox(fault));
      }
    },
  };
  await keepFresh(view, signal);
}

const emptyNote = () => h("div", { class: "empty card" }, h("p", {}, "There are no batches yet."));

/** @param {BatchSummary[]} batches */
function batchTable(batches) {
  const heads = ["Status", "Batch", "Done", "Failed", "Created"];
  return h("table", { class: "jobs" },
    h("caption", { class: "unseen" }, "Batches, newest first"),
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, batches.map((batch) => h("tr", { "data-row": batch.id },
      h("td", { "data-head": "Status" }, badge(batch.status)),
      h("td", { "data-head": "Batch" }, h("a", {
        href: `#/batches/${batch.id}`, "data-action": "open", title: batch.id,
      }, String(batch.metadata.title ?? shortId(batch.id)))),
      h("td", { "data-head": "Done" }, `${done(batch.counts)} of ${batch.total}`),
      h("td", { "data-head": "Failed" }, batch.counts.failed),
      h("td", { "data-head": "Created" }, h("time", { datetime: batch.created_at }, moment(batch.created_at)))))));
}

/** @param {Counts} counts */
const done = ({ succeeded, failed, canceled }) => succeeded + failed + canceled;

/** @param {PageContext} context */
function submitForm({ api, signal, go }) {
  const [fileId, hookId, noteId] = [unique("list"), unique("hook"), unique("note")];
  const file = h("input", {
    id: fileId, type: "file", required: true, accept: ".json,.jsonl,.ndjson", "aria-describedby": noteId,
  });
  const hook = h("input", { id: hookId, type: "url", autocomplete: "off", placeholder: "https://" });
  const button = h("button", { class: "primary" }, "Submit the batch");
  const problem = h("div", { class: "problem" });
  const sent = { key: "", content: "" };
  const onsubmit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const list = file.files?.[0];
    if (!list) return;
    button.disabled = true;
    problem.replaceChildren();
    try {
      const jobs = readJobs(await list.text());
      const content = JSON.stringify([jobs, hook.value]);
      if (content !== sent.content) Object.assign(sent, { content, key: `console-${randomHex()}` });
      const lines = jobs.map((job) => JSON.stringify(job)).join("\n");
      const listed = new Blob([lines]).size > MOST_BODY_BYTES
        ? { jobs_upload_id: await api.upload(new Blob([lines])) } : { jobs };
      const batch = await api.submitBatch({ ...listed, ...(hook.value && { webhook_url: hook.value }) }, sent.key);
      announce(`${batch.total} jobs were submitted.`);
      if (!signal.aborted) go(`#/batches/${batch.id}`);
    } catch (fault) {
      problem.replaceChildren(fault instanceof UnreadableList ? listError(fault) : problemBox(fault));
    } finally {
      button.disabled = false;
    }
  };
  return h("form", { class: "card", onsubmit },
    h("h2", {}, "New batch"),
    h("p", { class: "help", id: noteId }, "JSON Lines, one job a line, or a JSON array. A job has the fields of ",
      h("code", {}, "POST /v1/jobs"), ": ", h("code", {}, EXAMPLE)),
    h("label", { for: fileId }, "List of jobs"), file,
    h("label", { for: hookId }, "Webhook for the end of the batch (optional)"), hook,
    problem,
    h("div", { class: "row end" }, button));
}

class UnreadableList extends Error {}

/** @param {UnreadableList} fault */
const listError = (fault) => h("p", { class: "notice bad", role: "alert" }, fault.message);

function randomHex() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * The jobs of a list: an array, an object with `jobs`, or an object a line. What they hold is checked by the service.
 * @param {string} text
 * @returns {object[]}
 */
function readJobs(text) {
  const whole = parse(text);
  const jobs = Array.isArray(whole) ? whole : whole?.jobs ?? null;
  if (Array.isArray(jobs)) return jobs;
  return text.split("\n").flatMap((line, index) => {
    if (!line.trim()) return [];
    const job = parse(line);
    if (typeof job !== "object" || job === null) throw new UnreadableList(`Line ${index + 1} is not a JSON object.`);
    return [job];
  });
}

/** undefined: no JSON. @param {string} text */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** @param {string} id @param {HTMLElement} root @param {PageContext} context */
export async function showBatch(id, root, context) {
  const { api, signal } = context;
  const batch = await api.batch(id, { signal });
  if (signal.aborted) return;
  const body = h("div", { class: "job-list" });
  const status = h("span", { class: "job-status" });
  const remove = h("button", { type: "button", class: "danger quiet" });
  const bar = h("progress", { max: batch.total, value: 0, "aria-label": "Progress of the batch" });
  const text = h("p", { class: "progress-text" });
  const failures = h("div", { class: "section" });
  const problem = h("div", { class: "section" });
  root.replaceChildren(h("article", { class: "job" },
    h("header", { class: "job-head" },
      h("h1", {}, "Batch ", h("code", { class: "job-id" }, id)), h("div", { class: "row" }, status, remove)),
    problem,
    h("section", { class: "card", "aria-label": "Progress" }, bar, text),
    failures,
    h("section", { class: "section", "aria-labelledby": "batch-jobs" },
      h("h2", { id: "batch-jobs" }, "Newest jobs"), body,
      h("p", {}, h("a", { href: jobsAddress({ batch: id }) }, "All its jobs")))));
  /** @type {{ batch: Batch, said: number }} */
  const state = { batch, said: -1 };
  const view = {
    api, body,
    refresh: async () => {
      try {
        state.batch = await api.batch(id, { signal });
        const page = await api.jobs({ batch: id, limit: String(PER_PAGE) }, { signal });
        replaceRows(body, page.jobs.length ? jobTable(view, page.jobs) : "No item is a job yet.");
        problem.replaceChildren();
        draw();
      } catch (fault) {
        if (!signal.aborted) problem.replaceChildren(problemBox(fault));
      }
    },
  };
  const draw = () => {
    const { counts, total, cancel_requested: isCanceled } = state.batch;
    const isOver = state.batch.status !== "running";
    status.replaceChildren(badge(state.batch.status));
    remove.textContent = isOver ? "Delete" : "Cancel";
    remove.disabled = isCanceled && !isOver;
    bar.value = done(counts);
    text.replaceChildren(...sentence(id, counts, total));
    failures.replaceChildren(failureTable(state.batch));
    const quarter = Math.floor((4 * done(counts)) / total);
    if (quarter !== state.said) announce(`${done(counts)} of ${total} jobs are done.`);
    state.said = quarter;
  };
  remove.addEventListener("click", () => end(state.batch, context, view).catch((fault) => {
    problem.replaceChildren(problemBox(fault));
  }));
  draw();
  await keepFresh(view, signal);
}

/** Counts lead to the jobs that they count. @param {string} id @param {Counts} counts @param {number} total */
function sentence(id, counts, total) {
  const parts = Object.entries(counts).filter(([, count]) => count > 0).map(([name, count]) => {
    const text = `${count} ${name}`;
    return name === "waiting" ? text : h("a", { href: jobsAddress({ batch: id, status: name }) }, text);
  });
  return [`${done(counts)} of ${total} done: `, ...parts.flatMap((part, index) => (index ? [", ", part] : [part]))];
}

/** @param {Batch} batch */
function failureTable({ failures }) {
  if (!failures.length) return "";
  const heads = ["Item", "Code", "Reason", "Job"];
  const left = failures.length - SHOWN_FAILURES;
  return h("section", { class: "section", "aria-labelledby": "batch-failures" },
    h("h2", { id: "batch-failures" }, "Failures"),
    h("table", { class: "jobs failures" },
      h("caption", { class: "unseen" }, "Items that failed"),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, failures.slice(0, SHOWN_FAILURES).map((failure) => h("tr", { "data-row": `f${failure.index}` },
        h("td", { "data-head": "Item" }, failure.index + 1),
        h("td", { "data-head": "Code" }, h("code", {}, failure.code)),
        h("td", { "data-head": "Reason" }, failure.message),
        h("td", { "data-head": "Job" }, h("a", {
          href: `#/jobs/${failure.job_id}`, title: failure.job_id, "data-action": "open",
        }, shortId(failure.job_id))))))),
    left > 0 ? h("p", { class: "note" }, `And ${left} more: see the failed jobs.`) : "");
}

/**
 * Cancels a live batch, deletes one that is over.
 * @param {Batch} batch
 * @param {PageContext} context
 * @param {View} view
 */
async function end(batch, { api, go }, view) {
  if (batch.status === "running") {
    const text = "Items that are not jobs yet are dropped, and live jobs are canceled. Results stay.";
    if (!(await confirmLoss("Cancel this batch?", text, "Cancel the batch"))) return;
    await api.cancelBatch(batch.id);
    announce("The batch is being canceled.");
    await view.refresh();
  } else if (await confirmLoss("Delete this batch?", "Its record is deleted. Its jobs stay.", "Delete")) {
    await api.deleteBatch(batch.id);
    announce("The batch was deleted.");
    go("#/batches");
  }
}
