// @ts-check
// The metrics of a result, each with its meaning, and their curves.
/** @import { Curves, Evaluation, FinishedJob, Metric, MetricInfo, Offer } from "#types" */
/** @import { Comparison } from "./comparison.js" */

import { h } from "./elements.js";
import { clock, number, seconds, title } from "./format.js";
import { nameOf } from "./people.js";
import { gauge, shareBars, shiftPlot, timePlot } from "./plots.js";

const BETTER = { higher: "higher is better", lower: "lower is better", neutral: "nearer 0 is better" };

/**
 * @param {HTMLElement} place
 * @param {{ job: FinishedJob, evaluation: Evaluation, offer: Offer, comparison: Comparison }} context
 */
export function showEvaluation(place, { job, evaluation, offer, comparison }) {
  const measured = evaluation.metrics.filter((metric) => metric.value !== null);
  const isOfSegments = (/** @type {Metric} */ metric) => metric.segments?.some(({ value }) => value !== null);
  const unknown = evaluation.metrics.filter((metric) => metric.value === null && !isOfSegments(metric));
  const plots = drawPlots(job, evaluation.curves, comparison);
  place.replaceChildren(h("section", { class: "card", "aria-labelledby": "evaluation-title" },
    h("h2", { id: "evaluation-title" }, "Evaluation"),
    evaluation.synthetic_weights
      && h("p", { class: "notice warn" }, "Made with synthetic weights, for tests: the numbers are meaningless."),
    evaluation.metrics.length === 0 && h("p", { class: "fine" }, "No evaluation was requested."),
    h("ul", { class: "metrics" }, measured.map((metric) => metricCard(metric, offer.metric_table[metric.name]))),
    unknown.length > 0 && h("div", { class: "unmeasured" },
      h("h3", {}, "Not measured"),
      h("dl", { class: "facts" },
        unknown.flatMap((metric) => [h("dt", {}, title(metric.name)), h("dd", {}, metric.reason)]))),
    segmentTable(job, evaluation),
    plots.length > 0 && h("div", { class: "plots" }, plots)));
}

/** A row for each segment of the job, a column for each metric that segments have. @param {FinishedJob} job
 *  @param {Evaluation} evaluation */
function segmentTable(job, evaluation) {
  const metrics = evaluation.metrics.filter((metric) => metric.segments?.length);
  const segments = job.render?.segments ?? [];
  if (!metrics.length || !segments.length) return null;
  const cell = (/** @type {Metric} */ metric, /** @type {number} */ index) => {
    const { value = null, reason = "" } = metric.segments?.[index] ?? {};
    const text = value === null ? "–" : number(value);
    return h("td", { "data-head": title(metric.name), title: reason }, text);
  };
  return h("div", { class: "segment-values" },
    h("h3", {}, "Segments"),
    h("table", { class: "jobs" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Segment"),
        metrics.map((metric) => h("th", { scope: "col" }, title(metric.name))))),
      h("tbody", {}, segments.map((segment, index) => h("tr", {},
        h("td", { "data-head": "Segment" },
          h("span", { class: "times" }, `${index + 1}: ${clock(segment.start_s)} to ${clock(segment.end_s)}`),
          h("small", {}, spokenBy(job, index))),
        metrics.map((metric) => cell(metric, index)))))));
}

/** The speech of a segment and the face, as they were asked for. @param {FinishedJob} job @param {number} index */
function spokenBy({ segments, inputs, options }, index) {
  const { audio = "", face = null } = segments[index] ?? {};
  const chosen = face ?? options.face;
  let name = "face at a place";
  if (typeof chosen === "string") name = chosen.replaceAll("_", " ");
  else if ("track" in chosen) name = nameOf(chosen);
  return `${inputs[audio]?.filename ?? audio}, ${name}`;
}

/** @param {Metric} metric @param {MetricInfo} [info] */
function metricCard(metric, info) {
  const value = metric.value ?? 0;
  const { lowest: low = null, highest: high = null } = info ?? {};
  const bounds = low !== null && high !== null ? { low, high } : null;
  const range = bounds && `, from ${number(bounds.low)} to ${number(bounds.high)}`;
  return h("li", { class: "metric", "data-metric": metric.name },
    h("h3", {}, title(metric.name)),
    h("p", { class: "metric-value" }, number(value), metric.unit && h("span", { class: "unit" }, ` ${metric.unit}`)),
    bounds && gauge(value, bounds.low, bounds.high),
    h("p", { class: "fine" }, BETTER[metric.better], range),
    info && h("p", { class: "metric-help" }, info.description),
    h("details", { class: "fine" }, h("summary", {}, "How it is measured"),
      info && h("p", {}, info.source), details(metric.detail ?? {})));
}

/** @param {Record<string, unknown>} detail */
function details(detail) {
  const rows = Object.entries(detail);
  if (!rows.length) return null;
  return h("dl", { class: "facts" }, rows.flatMap(([name, value]) =>
    [h("dt", {}, title(name)), h("dd", {}, typeof value === "number" ? number(value) : String(value))]));
}

/** @param {FinishedJob} job @param {Curves | null} curves @param {Comparison} comparison */
function drawPlots(job, curves, comparison) {
  const timed = curves ? timedPlots(curves, job.result.duration_s, comparison.seek) : [];
  for (const plot of timed) comparison.onTime(plot.setTime);
  const shifts = Object.entries(curves?.sync ?? {}).map(([protocol, curve]) => shiftPlot({
    heading: `SyncNet distance over the shift (${protocol})`,
    help: "Mean distance of lips and sound when the picture is shifted against the sound by so many frames. "
      + "A deep, single valley at 0 is good.",
    summary: `SyncNet distance, smallest at a shift of ${curve.offset_frames} frames`,
    values: curve.distances, lowestAt: curve.offset_frames,
  }));
  const times = Object.entries(job.render?.stage_times_s ?? {});
  const bars = times.length > 0 && shareBars({
    heading: "Where the time went", help: "Seconds that each stage of the render took.",
    rows: times.map(([name, value]) => ({ name: title(name), value, text: seconds(value) })),
  });
  return [...timed.map((plot) => plot.element), ...shifts, ...(bars ? [bars] : [])];
}

/** @param {Curves} curves @param {number} durationS @param {(timeS: number) => void} onSeek */
function timedPlots(curves, durationS, onSeek) {
  const base = { fps: curves.fps, durationS, onSeek };
  const plots = [];
  const { mouth_opening: mouth = [], speech_level: speech = [], ssim = [], window_distance: distance = [] } = curves;
  if (mouth.length && speech.length) {
    const top = Math.max(1e-9, ...mouth.map((value) => value ?? 0));
    const opening = mouth.map((value) => (value === null ? null : value / top));
    plots.push(timePlot({ ...base,
      heading: "Mouth and speech", range: [0, 1],
      help: "How wide the mouth is open (share of its widest) against how loud the speech is. "
        + "They should rise and fall together. Click to go there.",
      summary: `Mouth opening and loudness of the speech over ${clock(durationS)}`,
      series: [{ name: "loudness of the speech", values: speech, tone: 2, isArea: true },
        { name: "mouth opening", values: opening, tone: 1 }] }));
  }
  // A still picture has one frame to compare with: no curve.
  if (ssim.length > 1) plots.push(frameCurve(base, ssim, "Similarity to the input (SSIM)", "worst",
    "Of each frame to the same frame of the input. Dips show the largest changes."));
  if (distance.length > 1) plots.push(frameCurve(base, distance, "SyncNet distance", "best",
    "Of lips and sound in the 0.2 s that begin there. Lower is better."));
  return plots;
}

/**
 * @param {{ fps: number, durationS: number, onSeek: (timeS: number) => void }} base
 * @param {(number | null)[]} values
 * @param {string} heading
 * @param {string} nameOfLowest
 * @param {string} help
 */
function frameCurve(base, values, heading, nameOfLowest, help) {
  const known = values.filter((value) => value !== null);
  const [lowest, highest] = [Math.min(...known), Math.max(...known)];
  const at = clock(values.indexOf(lowest) / base.fps);
  return timePlot({ ...base, heading, help: `${help} Click to go there.`,
    range: [lowest, Math.max(highest, lowest + 1e-6)],
    summary: `${heading} over time, from ${number(lowest)} to ${number(highest)}; the ${nameOfLowest} moment is ${at}`,
    series: [{ name: heading, values, tone: 1 }] });
}
