// The numbers about a result, each with its meaning, and the curves behind them.

import { h } from "./elements.js";
import { clock, number, seconds, title } from "./format.js";
import { gauge, shareBars, shiftPlot, timePlot } from "./plots.js";

const BETTER = { higher: "higher is better", lower: "lower is better", neutral: "nearer 0 is better" };

// evaluation: GET /jobs/{id}/evaluation. offer: GET /engines, which says what each metric means.
export function showEvaluation(place, { job, evaluation, offer, comparison }) {
  const measured = evaluation.metrics.filter((metric) => metric.value !== null);
  const unknown = evaluation.metrics.filter((metric) => metric.value === null);
  const plots = drawPlots(job, evaluation.curves, comparison);
  place.replaceChildren(h("section", { class: "card", "aria-labelledby": "evaluation-title" },
    h("h2", { id: "evaluation-title" }, "Evaluation"),
    evaluation.synthetic_weights
      && h("p", { class: "notice warn" }, "Made with weights that were made up for tests: the numbers mean nothing."),
    evaluation.metrics.length === 0 && h("p", { class: "fine" }, "No evaluation was asked for."),
    h("ul", { class: "metrics" }, measured.map((metric) => metricCard(metric, offer.metric_table[metric.name]))),
    unknown.length > 0 && h("div", { class: "unmeasured" },
      h("h3", {}, "Not measured"),
      h("dl", { class: "facts" }, unknown.flatMap((metric) => [h("dt", {}, title(metric.name)), h("dd", {}, metric.reason)]))),
    plots.length > 0 && h("div", { class: "plots" }, plots)));
}

function metricCard(metric, info) {
  const bounded = info && info.lowest !== null && info.highest !== null;
  return h("li", { class: "metric", "data-metric": metric.name },
    h("h3", {}, title(metric.name)),
    h("p", { class: "metric-value" }, number(metric.value), metric.unit && h("span", { class: "unit" }, ` ${metric.unit}`)),
    bounded && gauge(metric.value, info.lowest, info.highest),
    h("p", { class: "fine" }, BETTER[metric.better], bounded ? `, from ${number(info.lowest)} to ${number(info.highest)}` : ""),
    info && h("p", { class: "metric-help" }, info.description),
    h("details", { class: "fine" }, h("summary", {}, "How it is measured"),
      info && h("p", {}, info.source), details(metric.detail)));
}

function details(detail) {
  const rows = Object.entries(detail);
  if (!rows.length) return null;
  return h("dl", { class: "facts" }, rows.flatMap(([name, value]) =>
    [h("dt", {}, title(name)), h("dd", {}, typeof value === "number" ? number(value) : String(value))]));
}

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
  return [...timed.map((plot) => plot.element), ...shifts, bars].filter(Boolean);
}

function timedPlots(curves, durationS, onSeek) {
  const base = { fps: curves.fps, durationS, onSeek };
  const plots = [];
  if (curves.mouth_opening.length && curves.speech_level.length) {
    const top = Math.max(1e-9, ...curves.mouth_opening.map((value) => value ?? 0));
    plots.push(timePlot({ ...base,
      heading: "Mouth and speech", range: [0, 1],
      help: "How wide the mouth is open (share of its widest) against how loud the speech is. "
        + "They should rise and fall together. Click to go there.",
      summary: `Mouth opening and loudness of the speech over ${clock(durationS)}`,
      series: [{ name: "loudness of the speech", values: curves.speech_level, tone: 2, isArea: true },
        { name: "mouth opening", values: curves.mouth_opening.map((value) => value === null ? null : value / top), tone: 1 }] }));
  }
  // A still picture has one frame to compare with: no curve.
  if (curves.ssim.length > 1) plots.push(frameCurve(base, curves.ssim, "Similarity to the input (SSIM)", "worst",
    "Of each frame to the input's frame of the same number. Dips show where most was changed."));
  if (curves.window_distance.length > 1) plots.push(frameCurve(base, curves.window_distance, "SyncNet distance", "best",
    "Of lips and sound in the fifth of a second that begins there. Lower is better."));
  return plots;
}

function frameCurve(base, values, heading, nameOfLowest, help) {
  const known = values.filter((value) => value !== null);
  const [lowest, highest] = [Math.min(...known), Math.max(...known)];
  const at = clock(values.indexOf(lowest) / base.fps);
  return timePlot({ ...base, heading, help: `${help} Click to go there.`, range: [lowest, Math.max(highest, lowest + 1e-6)],
    summary: `${heading} over time, from ${number(lowest)} to ${number(highest)}; the ${nameOfLowest} moment is ${at}`,
    series: [{ name: heading, values, tone: 1 }] });
}
