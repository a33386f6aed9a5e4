// @ts-check
// One job: progress, result, evaluation, webhook deliveries and details.
/** @import { AudioTrack, FinishedJob, Job, JobEvent, Note, PageContext } from "#types" */
/** @import { JobView } from "./webhook_log.js" */

import { badge } from "./job_list.js";
import { buildComparison } from "./comparison.js";
import { showEvaluation } from "./evaluation.js";
import { followJob, isOver, pause } from "./events.js";
import { announce, h } from "./elements.js";
import { bytes, moment, number, seconds, title } from "./format.js";
import { removeJob } from "./job_actions.js";
import { failureBox, problemBox } from "./notices.js";
import { listPeople } from "./people.js";
import { buildProgress } from "./progress.js";
import { showWebhook } from "./webhook_log.js";

const QUEUE_REFRESH_MS = 2000;
const SHOWN_RANGES = 6;

/**
 * drawnFor: the status that the sections show. readAt: when the job was last read, in ms.
 * @typedef {PageContext & JobView & ReturnType<typeof buildSections> & { drawnFor: string | null, readAt: number,
 *   progress: ReturnType<typeof buildProgress> }} Page
 */

/** @param {string} id @param {HTMLElement} root @param {PageContext} context */
export async function showJobPage(id, root, { api, signal, go }) {
  const [job, document] = await Promise.all([api.job(id, { signal }), api.document()]);
  if (signal.aborted) return;
  const stages = document.components.schemas.JobView.properties.stage.examples ?? [];
  const state = { job, drawnFor: null, readAt: 0, progress: buildProgress(stages) };
  /** @type {Page} */
  const page = { api, signal, id, go, ...state, ...buildSections(id) };
  page.remove.addEventListener("click", () => remove(page));
  root.replaceChildren(page.element);
  draw(page);
  await Promise.all([follow(page), watchQueue(page)]);
}

/** @param {string} id */
function buildSections(id) {
  const status = h("span", { class: "job-status" });
  const remove = h("button", { type: "button", class: "danger quiet" });
  const section = (/** @type {string} */ name) => h("div", { class: `section ${name}` });
  const sections = {
    problem: section("problem"), live: section("live"), outcome: section("outcome"),
    evaluation: section("evaluation"), webhook: section("webhook"), about: section("about"),
  };
  const element = h("article", { class: "job" },
    h("header", { class: "job-head" },
      h("h1", {}, "Job ", h("code", { class: "job-id" }, id)),
      h("div", { class: "row" }, status, remove)),
    Object.values(sections));
  return { element, status, remove, ...sections };
}

/** Events report every step at once; queue position and ETA are only in the job itself. @param {Page} page */
async function follow(page) {
  const onConnection = (/** @type {boolean} */ isConnected) => page.progress.showConnection(isConnected);
  try {
    for await (const event of followJob(page.api, page.id, { signal: page.signal, onConnection })) {
      page.progress.addEvent(event);
      if (isNews(event, page.job)) {
        page.job = { ...page.job, status: event.status, stage: event.stage, progress: event.progress };
        draw(page);
      }
      if (event.event !== "job.progress" || performance.now() - page.readAt > 1000) await reread(page);
    }
    await reread(page);
  } catch (fault) {
    page.problem.replaceChildren(problemBox(fault));
  }
}

/**
 * Events are replayed from the beginning of the job: older ones must not turn it back.
 * @param {JobEvent} event
 * @param {Job} job
 */
const isNews = (event, job) => event.event === "job.progress" && !isOver(job.status) && event.progress >= job.progress;

/** @param {Page} page */
async function watchQueue(page) {
  while (!page.signal.aborted && !isOver(page.job.status)) {
    await pause(QUEUE_REFRESH_MS, page.signal);
    if (!document.hidden && !isOver(page.job.status)) await reread(page).catch(() => {});
  }
}

/** @param {Page} page */
async function reread(page) {
  page.readAt = performance.now();
  page.job = await page.api.job(page.id, { signal: page.signal }).catch((fault) => {
    if (page.signal.aborted) return page.job;
    throw fault;
  });
  if (!page.signal.aborted) draw(page);
}

/** @param {Page} page */
function draw(page) {
  const { job } = page;
  page.status.replaceChildren(badge(job.status));
  page.remove.textContent = isOver(job.status) ? "Delete" : job.cancel_requested ? "Canceling …" : "Cancel";
  page.remove.disabled = job.cancel_requested && !isOver(job.status);
  page.progress.show(job);
  showWebhook(page.webhook, page, () => draw(page));
  if (page.drawnFor === job.status) return;
  const before = page.drawnFor;
  page.drawnFor = job.status;
  page.live.replaceChildren(page.progress.element);
  page.about.replaceChildren(factsOf(job));
  if (before && isOver(job.status)) announce(`The job ${job.status}.`);
  // If the end is known from an event, the result is not: the job is read again right after.
  if (isOver(job.status) && (job.result || job.error || job.status === "canceled")) drawOutcome(page);
  else page.drawnFor = isOver(job.status) ? null : job.status;
}

/** @param {Page} page */
async function drawOutcome(page) {
  const { api, job } = page;
  try {
    if (job.error) {
      const { error } = job;
      const codes = await api.errorCodes();
      page.outcome.replaceChildren(failureBox(error, codes.find((row) => row.code === error.code)));
    }
    if (!isFinished(job)) return;
    if (job.kind === "analyze") {
      page.outcome.replaceChildren(...(await describeAnalysis(page)));
      return;
    }
    const [media, evaluation, offer] = await Promise.all([api.media(job.id), api.evaluation(job.id), api.offer()]);
    if (page.signal.aborted) return;
    const comparison = buildComparison(job, media, () => api.media(job.id), page.signal);
    if (!comparison) return;
    page.outcome.replaceChildren(resultNote(job), ...notesBox(job), comparison.element);
    showEvaluation(page.evaluation, { job, evaluation, offer, comparison });
  } catch (fault) {
    page.problem.replaceChildren(problemBox(fault));
  }
}

/** Who is in the video. @param {Page} page */
async function describeAnalysis({ api, id }) {
  const analysis = await api.analysis(id);
  const { people, shots, notes } = analysis;
  const counts = `${people.length} ${people.length === 1 ? "person" : "people"} in ${shots.length} ${
    shots.length === 1 ? "shot" : "shots"}, ${seconds(analysis.duration_s)}.`;
  return [h("p", { class: "lead" }, counts), await listPeople(api, id, analysis),
    ...notes.map((note) => h("p", { class: "fine" }, note))];
}

/** @param {Job} job @returns {job is FinishedJob} */
const isFinished = (job) => job.result !== null;

/** @param {Job} job */
function resultNote(job) {
  const preview = job.engine === "preview" && " This is a preview: a landmark warp, not the neural method.";
  const synthetic = job.render?.synthetic_weights
    && " Its weights are synthetic, for tests: the result is meaningless.";
  return h("p", { class: "lead" }, `Made by the engine ${job.engine} on ${job.device}.`, preview, synthetic);
}

/** What the caller should know about the result. @param {Job} job */
function notesBox(job) {
  const notes = job.render?.notes ?? [];
  return notes.length === 0 ? [] : [h("section", { class: "notes card" },
    h("h2", {}, "Notes"), h("ul", {}, notes.map((note) => h("li", {}, describeNote(note)))))];
}

/** @param {Page} page */
async function remove(page) {
  try {
    const wasOver = isOver(page.job.status);
    if (!(await removeJob(page.api, page.job))) return;
    if (wasOver) page.go("#/jobs");
    else await reread(page);
  } catch (fault) {
    page.problem.replaceChildren(problemBox(fault));
  }
}

/** @param {Job} job */
function factsOf(job) {
  const { result } = job;
  const options = job.kind === "analyze" ? {} : job.options;
  const rows = [
    ["Created", moment(job.created_at)], ["Started", moment(job.started_at)], ["Finished", moment(job.finished_at)],
    ["Deleted with its files", moment(job.delete_at)], ["Must start before", moment(job.deadline_at)],
    ["Attempts", job.attempts ? `${job.attempts} of ${job.max_attempts}` : ""],
    [job.kind === "analyze" ? "Video" : "Result", result && describeFile(result)],
    ["Face found", job.render && `in ${number(job.render.face_coverage * 100)} % of the frames`],
    ["Sound track", job.render?.audio_track && describeTrack(job.render.audio_track)],
    ["Your data", Object.keys(job.metadata).length ? JSON.stringify(job.metadata) : ""],
    ...Object.entries(options).map(([name, value]) => [title(name), value === null ? "" : asText(value)]),
  ];
  const known = rows.filter(([, text]) => text).flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]);
  return h("details", { class: "fold card" },
    h("summary", {}, h("span", { class: "fold-title" }, "Details and options")), h("dl", { class: "facts" }, known));
}

/** @param {Note} note */
function describeNote({ sentence, ranges_s: ranges = [] }) {
  const shown = ranges.slice(0, SHOWN_RANGES).map(([start, end]) => `${start.toFixed(2)}–${end.toFixed(2)} s`);
  if (ranges.length > SHOWN_RANGES) shown.push(`${ranges.length - SHOWN_RANGES} more`);
  const listed = shown.join(", ");
  return listed ? `${sentence} (${listed})` : sentence;
}

/** @param {AudioTrack} track */
function describeTrack({ number: chosen, count, language, codec, rate_hz: rate, channels }) {
  const parts = [`${chosen} of ${count}`, language, codec, `${number(rate)} Hz`, `${channels} channels`];
  return parts.filter(Boolean).join(", ");
}

/** @param {NonNullable<Job["result"]>} result */
function describeFile({ width, height, fps, duration_s: durationS, size_bytes: size }) {
  return `${width} × ${height}, ${number(fps)} fps, ${seconds(durationS)}, ${bytes(size)}`;
}

/** @param {unknown} value */
const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value));
