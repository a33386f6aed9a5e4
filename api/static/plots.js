// @ts-check
// Curves as SVG, redrawn at every width so that their text keeps its size.
/** @import { Axes, PlotText, Scale, Series, Values } from "#types" */

import { h, svg } from "./elements.js";
import { clock, number } from "./format.js";

const HEIGHT = 150;
const MARGIN = { left: 42, right: 10, top: 10, bottom: 24 };

/**
 * Values per frame over the time of the result.
 * @param {PlotText & { series: Series[], fps: number, durationS: number, range: [number, number],
 *   onSeek: (timeS: number) => void }} plot range: lowest and highest value of the axis. onSeek: called on a click.
 */
export function timePlot({ heading, help, summary, series, fps, durationS, range, onSeek }) {
  const head = svg("line", { class: "playhead", y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom });
  const wholeSeconds = (/** @type {number} */ value) => clock(value).replace(/\.\d+$/, "");
  /** @type {Axes} */
  const scale = { domain: [0, durationS], range, xText: wholeSeconds, xSteps: timeSteps(durationS) };
  /** @type {Scale | null} */
  let place = null;
  const plot = figure({ heading, help, summary, series, scale }, (canvas, x, y) => {
    place = x;
    for (const each of series) canvas.append(curve(each, (index) => x(index / fps), y));
    canvas.append(head);
  });
  plot.surface.addEventListener("click", (event) => {
    const share = (event.offsetX - MARGIN.left) / (plot.surface.clientWidth - MARGIN.left - MARGIN.right);
    onSeek(Math.max(0, Math.min(1, share)) * durationS);
  });
  const setTime = (/** @type {number} */ time) => {
    if (!place) return;
    head.setAttribute("x1", String(place(time)));
    head.setAttribute("x2", String(place(time)));
  };
  return { element: plot.element, setTime };
}

/**
 * Values over the shifts -s .. s, with the smallest marked.
 * @param {PlotText & { values: Values, lowestAt: number }} plot lowestAt: shift of the smallest value
 */
export function shiftPlot({ heading, help, summary, values, lowestAt }) {
  const reach = (values.length - 1) / 2;
  const known = values.filter((value) => value !== null);
  /** @type {[number, number]} */
  const range = [Math.min(...known), Math.max(...known)];
  const steps = [-reach, -reach / 2, 0, reach / 2, reach].map(Math.round);
  /** @type {Axes} */
  const scale = { domain: [-reach, reach], range, xText: String, xSteps: steps };
  const series = [{ name: "distance", values, tone: 1 }];
  return figure({ heading, help, summary, series, scale }, (canvas, x, y) => {
    canvas.append(curve(series[0], (index) => x(index - reach), y));
    const value = values[lowestAt + reach] ?? range[0];
    canvas.append(svg("circle", { class: "mark", cx: x(lowestAt), cy: y(value), r: 4.5 }));
  }).element;
}

/**
 * Named values as bars, one per line.
 * @param {{ heading: string, help: string, rows: { name: string, value: number, text: string }[] }} bars
 */
export function shareBars({ heading, help, rows }) {
  const whole = Math.max(...rows.map(({ value }) => value), 1e-9);
  const lines = rows.map(({ name, value, text }) => h("li", {}, h("span", { class: "bar-name" }, name),
    svg("svg", { class: "bar-line", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { class: "bar-rail", width: 100, height: 8 }),
      svg("rect", { class: "bar-fill", width: Math.max(0.5, (100 * value) / whole), height: 8 })),
    h("span", { class: "bar-value" }, text)));
  return h("figure", { class: "plot" }, h("figcaption", {}, h("h3", {}, heading), h("p", { class: "fine" }, help)),
    h("ul", { class: "bars" }, lines));
}

/**
 * Position of a value between its lowest and highest possible value.
 * @param {number} value
 * @param {number} lowest
 * @param {number} highest
 */
export function gauge(value, lowest, highest) {
  const share = Math.max(0, Math.min(1, (value - lowest) / (highest - lowest)));
  const zero = lowest < 0 && highest > 0 ? (-lowest / (highest - lowest)) * 100 : 0;
  const [from, to] = [Math.min(zero, share * 100), Math.max(zero, share * 100)];
  return svg("svg", { class: "gauge", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "bar-rail", width: 100, height: 6 }),
    svg("rect", { class: "bar-fill", x: from, width: Math.max(0.8, to - from), height: 6 }));
}

/**
 * @param {PlotText & { series: Series[], scale: Axes }} plot
 * @param {(canvas: SVGGElement, x: Scale, y: Scale) => void} draw
 */
function figure({ heading, help, summary, series, scale }, draw) {
  const surface = svg("svg", { class: "surface", role: "img", "aria-label": summary, height: HEIGHT });
  const legend = series.length > 1 && h("ul", { class: "legend" }, series.map(({ name, tone }) =>
    h("li", { class: `tone-${tone}` }, name)));
  const redraw = () => {
    const width = Math.max(240, surface.clientWidth);
    const [x, y] = axes(width, scale);
    const canvas = svg("g", {});
    surface.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    surface.replaceChildren(grid(width, x, y, scale), canvas);
    draw(canvas, x, y);
  };
  new ResizeObserver(redraw).observe(surface);
  const element = h("figure", { class: "plot" },
    h("figcaption", {}, h("h3", {}, heading), h("p", { class: "fine" }, help)), legend, surface);
  return { element, surface };
}

/** @param {number} width @param {Axes} axes */
function axes(width, { domain, range }) {
  /** @param {[number, number]} domain @param {number} start @param {number} end @returns {Scale} */
  const line = ([from, to], start, end) => (value) => start + ((value - from) / (to - from || 1)) * (end - start);
  return [line(domain, MARGIN.left, width - MARGIN.right), line(range, HEIGHT - MARGIN.bottom, MARGIN.top)];
}

/** @param {number} width @param {Scale} x @param {Scale} y @param {Axes} axes */
function grid(width, x, y, { range, xText, xSteps }) {
  const levels = [range[0], (range[0] + range[1]) / 2, range[1]];
  return svg("g", { class: "grid" },
    levels.map((level) => [
      svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(level), y2: y(level) }),
      svg("text", { x: MARGIN.left - 6, y: y(level) + 4, "text-anchor": "end" }, number(Number(level.toPrecision(3)))),
    ]),
    xSteps.map((step) => svg("text", { x: x(step), y: HEIGHT - 6, "text-anchor": "middle" }, xText(step))));
}

/** @param {number} durationS */
function timeSteps(durationS) {
  const step = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300].find((each) => durationS / each <= 6) ?? 600;
  return Array.from({ length: Math.floor(durationS / step) + 1 }, (_, index) => index * step);
}

/** A path with gaps where values are unknown. @param {Series} series @param {Scale} x @param {Scale} y */
function curve({ values, tone, isArea }, x, y) {
  let path = "";
  let isOpen = false;
  for (const [index, value] of thinned(values)) {
    if (value === null) { isOpen = false; continue; }
    path += `${isOpen ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
    isOpen = true;
  }
  if (!isArea) return svg("path", { class: `curve tone-${tone}`, d: path });
  const base = HEIGHT - MARGIN.bottom;
  const closed = `M${x(0).toFixed(1)} ${base}${path.replaceAll("M", "L")}L${x(values.length - 1).toFixed(1)} ${base}Z`;
  return svg("path", { class: `area tone-${tone}`, d: closed });
}

/** @param {Values} values @param {number} index @returns {[number, number | null]} */
const point = (values, index) => [index, values[index]];

/**
 * Index and value of the lowest and highest value of each stretch: a long curve keeps its peaks and draws quickly.
 * @param {Values} values
 * @returns {Iterable<[number, number | null]>}
 */
function thinned(values, most = 1600) {
  const size = Math.ceil((2 * values.length) / most);
  if (size <= 2) return values.entries();
  /** @type {[number, number | null][]} */
  const points = [];
  for (let start = 0; start < values.length; start += size) {
    let [lowest, highest] = [-1, -1];
    for (let index = start; index < Math.min(start + size, values.length); index += 1) {
      const value = values[index];
      if (value === null) continue;
      if (lowest < 0 || value < (values[lowest] ?? 0)) lowest = index;
      if (highest < 0 || value > (values[highest] ?? 0)) highest = index;
    }
    if (lowest < 0) points.push([start, null]);
    else points.push(...[lowest, highest].sort((a, b) => a - b).map((index) => point(values, index)));
  }
  return points;
}
