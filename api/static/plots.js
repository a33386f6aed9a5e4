// Curves as SVG, drawn anew at every width so that their letters keep their size.

import { h, svg } from "./elements.js";
import { clock, number } from "./format.js";

const HEIGHT = 150;
const MARGIN = { left: 42, right: 10, top: 10, bottom: 24 };

// Values per frame over the time of the result. series: [{ name, values (null: unknown), tone, isArea }].
// range: [lowest, highest] of the axis. onSeek(s): a click on the plot. Gives { element, setTime(s) }.
export function timePlot({ heading, help, summary, series, fps, durationS, range, onSeek }) {
  const head = svg("line", { class: "playhead", y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom });
  const wholeSeconds = (value) => clock(value).replace(/\.\d+$/, "");
  const scale = { domain: [0, durationS], range, xText: wholeSeconds, xSteps: timeSteps(durationS) };
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
  const setTime = (time) => {
    if (!place) return;
    head.setAttribute("x1", place(time));
    head.setAttribute("x2", place(time));
  };
  return { element: plot.element, setTime };
}

// Values over shifts -s .. s, the smallest marked.
export function shiftPlot({ heading, help, summary, values, lowestAt }) {
  const reach = (values.length - 1) / 2;
  const known = values.filter((value) => value !== null);
  const range = [Math.min(...known), Math.max(...known)];
  const steps = [-reach, -reach / 2, 0, reach / 2, reach].map(Math.round);
  const scale = { domain: [-reach, reach], range, xText: String, xSteps: steps };
  const series = [{ name: "distance", values, tone: 1 }];
  return figure({ heading, help, summary, series, scale }, (canvas, x, y) => {
    canvas.append(curve(series[0], (index) => x(index - reach), y));
    const value = values[lowestAt + reach] ?? range[0];
    canvas.append(svg("circle", { class: "mark", cx: x(lowestAt), cy: y(value), r: 4.5 }));
  }).element;
}

// Named shares of a whole, one line each.
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

// Where a value lies between the lowest and the highest that can be.
export function gauge(value, lowest, highest) {
  const share = Math.max(0, Math.min(1, (value - lowest) / (highest - lowest)));
  const zero = lowest < 0 && highest > 0 ? (-lowest / (highest - lowest)) * 100 : 0;
  const [from, to] = [Math.min(zero, share * 100), Math.max(zero, share * 100)];
  return svg("svg", { class: "gauge", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "bar-rail", width: 100, height: 6 }),
    svg("rect", { class: "bar-fill", x: from, width: Math.max(0.8, to - from), height: 6 }));
}

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

function axes(width, { domain, range }) {
  const line = ([from, to], start, end) => (value) => start + ((value - from) / (to - from || 1)) * (end - start);
  return [line(domain, MARGIN.left, width - MARGIN.right), line(range, HEIGHT - MARGIN.bottom, MARGIN.top)];
}

function grid(width, x, y, { range, xText, xSteps }) {
  const levels = [range[0], (range[0] + range[1]) / 2, range[1]];
  return svg("g", { class: "grid" },
    levels.map((level) => [
      svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(level), y2: y(level) }),
      svg("text", { x: MARGIN.left - 6, y: y(level) + 4, "text-anchor": "end" }, number(Number(level.toPrecision(3)))),
    ]),
    xSteps.map((step) => svg("text", { x: x(step), y: HEIGHT - 6, "text-anchor": "middle" }, xText(step))));
}

function timeSteps(durationS) {
  const step = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300].find((each) => durationS / each <= 6) ?? 600;
  return Array.from({ length: Math.floor(durationS / step) + 1 }, (_, index) => index * step);
}

// A path with gaps where nothing is known.
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

// The lowest and the highest of each stretch: a long curve keeps its peaks and stays quick to draw.
function thinned(values, most = 1600) {
  const size = Math.ceil((2 * values.length) / most);
  if (size <= 2) return values.entries();
  const points = [];
  for (let start = 0; start < values.length; start += size) {
    const stretch = values.slice(start, start + size).map((value, offset) => [start + offset, value]);
    const known = stretch.filter(([, value]) => value !== null).sort((one, other) => one[1] - other[1]);
    if (!known.length) points.push([start, null]);
    else points.push(...[known[0], known.at(-1)].sort((one, other) => one[0] - other[0]));
  }
  return points;
}
