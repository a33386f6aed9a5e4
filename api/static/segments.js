// @ts-check
// Who speaks when: segments on a timeline, each with the waveform of its speech.
/** @import { Choice, FieldError, Person, Player } from "#types" */

import { announce, h, unique } from "./elements.js";
import { bytes } from "./format.js";
import { nameOf } from "./people.js";
import { drawWaveform, readWaveform } from "./waveform.js";

/** @typedef {Awaited<ReturnType<typeof readWaveform>>} Waveform */
/** @typedef {"start_s" | "end_s" | "audio_offset_s"} TimeField */
/**
 * @typedef {object} Row
 * @property {File} file
 * @property {Waveform} waveform
 * @property {Record<TimeField, HTMLInputElement>} times
 * @property {HTMLSelectElement} face
 * @property {HTMLElement} element
 * @property {HTMLButtonElement} block on the timeline
 * @property {HTMLCanvasElement} canvas
 * @property {HTMLElement} error
 */

const STEP_S = 0.1;
const LABELS = { start_s: "Starts at (s)", end_s: "Ends at (s)", audio_offset_s: "Skip in the file (s)" };

/**
 * @param {object} options
 * @param {{ player: Element | null }} options.video its length is that of the timeline
 * @param {readonly Choice[]} options.faces
 * @param {number} options.maxBytes largest file that the service accepts
 * @param {(isOn: boolean) => void} options.onSwitch
 */
export function buildSegments({ video, faces, maxBytes, onSwitch }) {
  /** @type {Row[]} */
  const rows = [];
  /** @type {Person[]} */
  let people = [];
  /** @type {Row | undefined} the one that a click on a person is about */
  let marked;
  const toggle = h("input", { type: "checkbox", role: "switch", id: unique("segments") });
  const chooser = h("input", {
    type: "file", id: unique("speeches"), accept: "audio/*,video/*,.mkv,.flac,.ogg", multiple: true,
  });
  const track = h("div", { class: "track", role: "group", "aria-label": "Timeline" });
  const scale = h("p", { class: "fine track-scale" });
  const list = h("ol", { class: "segment-rows" });
  const error = h("p", { class: "error", role: "alert", hidden: true });
  const editor = h("div", { class: "segments", hidden: true },
    h("p", { class: "help" }, "Drag a speech along the timeline, or move it with the arrow keys. "
      + "Click on a person above to let them speak the marked one."),
    track, scale, list, h("label", { for: chooser.id }, "Add speech"), chooser, error);

  const draw = () => drawTimeline(rows, track, scale, lengthOf(rows, video.player));
  const mark = (/** @type {Row | undefined} */ row) => {
    marked = row;
    for (const { element, block } of rows) {
      for (const part of [element, block]) part.toggleAttribute("data-marked", element === row?.element);
    }
  };
  const add = async (/** @type {File} */ file) => {
    if (file.size > maxBytes) return say(error, `${file.name} has ${bytes(file.size)}, more than the service takes.`);
    const lastS = Math.max(0, ...rows.map(endOf));
    const row = buildRow(file, await readWaveform(file), lastS, faces, rows.length);
    offer(row, people);
    rows.push(row);
    list.append(row.element);
    track.append(row.block);
    row.element.addEventListener("input", draw);
    for (const part of [row.element, row.block]) part.addEventListener("focusin", () => mark(row));
    mark(row);
    row.element.querySelector("button")?.addEventListener("click", () => remove(row));
    move(row, track, () => lengthOf(rows, video.player), draw);
    draw();
    return announce(`Added ${file.name}`);
  };
  const remove = (/** @type {Row} */ row) => {
    rows.splice(rows.indexOf(row), 1);
    row.element.remove();
    row.block.remove();
    if (marked === row) mark(rows.at(-1));
    draw();
    chooser.focus();
  };
  chooser.addEventListener("change", async () => {
    say(error, "");
    for (const file of chooser.files ?? []) await add(file);
    chooser.value = "";
  });
  toggle.addEventListener("change", () => {
    editor.hidden = !toggle.checked;
    onSwitch(toggle.checked);
    draw();
  });
  window.addEventListener("resize", draw);

  const element = h("section", { class: "card", "aria-label": "Speakers" },
    h("label", { class: "tick", for: toggle.id }, toggle,
      h("span", {}, "Several speakers", h("small", {}, "A speech for each, at a time and for a face of its own"))),
    editor);
  return {
    element, focus: () => chooser.focus(),
    get isOn() { return toggle.checked; },
    /** Lets segments name the people of the video. @param {Person[]} found */
    offerPeople(found) {
      people = found;
      for (const row of rows) offer(row, people);
      draw();
    },
    /** Lets a person speak the marked speech; returns what was done. @param {Person} person */
    pick({ track: name }) {
      if (!marked) return "Add the speech of each speaker, then click on who speaks it.";
      marked.face.value = name;
      draw();
      return `${nameOf({ track: name })} speaks ${marked.file.name}, speech ${rows.indexOf(marked) + 1}.`;
    },
    /** What to send, or null if something is missing, which is then shown. */
    read() {
      say(error, rows.length ? "" : "Add the speech of each speaker.");
      const wrong = rows.filter((row) => !check(row));
      return rows.length && !wrong.length ? toRequest(rows) : null;
    },
    /** @param {Pick<FieldError, "pointer" | "message">[]} errors */
    showErrors(errors) {
      for (const { pointer, message } of errors) {
        const row = rows[Number(pointer.split("/")[2])];
        say(row ? row.error : error, message);
      }
    },
  };
}

/** @param {HTMLElement} place @param {string} text */
function say(place, text) {
  place.textContent = text;
  place.hidden = !text;
}

/**
 * @param {File} file
 * @param {Waveform} waveform
 * @param {number} startS
 * @param {readonly Choice[]} faces
 * @param {number} number
 */
function buildRow(file, waveform, startS, faces, number) {
  const input = (/** @type {TimeField} */ name, /** @type {number | string} */ value) => h("input", {
    type: "number", min: 0, max: 86400, step: "any", id: unique(name), value, required: name === "start_s",
    placeholder: name === "end_s" ? "with its speech" : undefined,
  });
  const times = { start_s: input("start_s", round(startS)), end_s: input("end_s", ""),
    audio_offset_s: input("audio_offset_s", 0) };
  const face = h("select", { id: unique("face") },
    faces.map(({ value, meaning }) => h("option", { value }, meaning || value)));
  const sides = faces.filter(({ value }) => value === "left_most" || value === "right_most");
  face.value = sides.length ? sides[number % sides.length].value : face.value;
  const error = h("p", { class: "error", role: "alert", hidden: true });
  const fields = Object.entries(times).map(([name, control]) => h("div", { class: "field" },
    h("label", { for: control.id }, LABELS[/** @type {TimeField} */ (name)]), control));
  const element = h("li", { "aria-label": file.name },
    h("div", { class: "row" }, h("strong", {}, file.name),
      h("button", { type: "button", class: "quiet small", "aria-label": `Remove: ${file.name}` }, "Remove")),
    h("div", { class: "option-grid" }, fields,
      h("div", { class: "field" }, h("label", { for: face.id }, "Face"), face)), error);
  const canvas = h("canvas", { "aria-hidden": "true" });
  const block = h("button", { type: "button", class: `segment-block tone-${(number % 2) + 1}` }, canvas,
    h("span", {}, file.name));
  return { file, waveform, times, face, element, block, canvas, error };
}

/**
 * Adds people to the faces of a row, in the place of those of another video.
 * @param {Row} row
 * @param {Person[]} people
 */
function offer({ face }, people) {
  const chosen = face.value;
  for (const option of face.querySelectorAll("option[data-person]")) option.remove();
  face.append(...people.map((person) =>
    h("option", { value: person.track, "data-person": true }, nameOf(person))));
  face.value = chosen;
  if (!face.value) face.selectedIndex = 0;
}

/** @param {HTMLSelectElement} face */
const valueOf = (face) => (face.selectedOptions[0]?.hasAttribute("data-person") ? { track: face.value } : face.value);

/** @param {number} seconds */
const round = (seconds) => Math.max(0, Math.round(seconds * 1000) / 1000);
/** @param {Row} row */
const startOf = (row) => row.times.start_s.valueAsNumber || 0;
/** @param {Row} row */
const offsetOf = (row) => row.times.audio_offset_s.valueAsNumber || 0;
/** As far as it is known: a file that the browser cannot decode counts a second. @param {Row} row */
const endOf = (row) => row.times.end_s.valueAsNumber
  || startOf(row) + Math.max(STEP_S, (row.waveform?.durationS ?? 1 + offsetOf(row)) - offsetOf(row));

/** @param {Row[]} rows @param {Element | null} player */
function lengthOf(rows, player) {
  const { duration = 0 } = /** @type {Partial<Player & { duration: number }>} */ (player ?? {});
  return Math.max(1, Number.isFinite(duration) ? duration : 0, ...rows.map(endOf));
}

/** @param {Row[]} rows @param {HTMLElement} track @param {HTMLElement} scale @param {number} lengthS */
function drawTimeline(rows, track, scale, lengthS) {
  scale.textContent = `0 to ${lengthS.toFixed(1)} s`;
  const faces = [...new Set(rows.map(({ face }) => face.value))];
  track.style.height = `${Math.max(1, faces.length) * 3.5}rem`;
  for (const row of rows) {
    const [startS, endS] = [startOf(row), endOf(row)];
    row.block.style.left = `${(startS / lengthS) * 100}%`;
    row.block.style.width = `${(Math.max(0, endS - startS) / lengthS) * 100}%`;
    row.block.style.top = `${faces.indexOf(row.face.value) * 3.5}rem`;
    const face = row.face.selectedOptions[0]?.textContent ?? "";
    row.block.setAttribute("aria-label",
      `${row.file.name}, ${face}, from ${startS.toFixed(1)} to ${endS.toFixed(1)} seconds`);
    drawWaveform(row.canvas, row.waveform, offsetOf(row), endS - startS);
  }
}

/**
 * Dragging and arrow keys move start and end together.
 * @param {Row} row
 * @param {HTMLElement} track
 * @param {() => number} lengthS
 * @param {() => void} draw
 */
function move(row, track, lengthS, draw) {
  const by = (/** @type {number} */ seconds) => {
    const shift = Math.max(-startOf(row), seconds);
    const { start_s: start, end_s: end } = row.times;
    if (end.value) end.value = String(round(end.valueAsNumber + shift));
    start.value = String(round(startOf(row) + shift));
    draw();
  };
  row.block.addEventListener("keydown", (event) => {
    const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!direction) return;
    event.preventDefault();
    by(direction * STEP_S);
  });
  row.block.addEventListener("pointerdown", (event) => {
    row.block.setPointerCapture(event.pointerId);
    const perPixel = lengthS() / track.clientWidth;
    const [from, startS] = [event.clientX, startOf(row)];
    const drag = (/** @type {PointerEvent} */ at) => by(startS + (at.clientX - from) * perPixel - startOf(row));
    row.block.addEventListener("pointermove", drag);
    row.block.addEventListener("lostpointercapture", () => row.block.removeEventListener("pointermove", drag),
      { once: true });
  });
}

/** Whether its fields can be sent. @param {Row} row */
function check(row) {
  const wrong = Object.values(row.times).find((control) => !control.checkValidity());
  say(row.error, wrong ? wrong.validationMessage : "");
  wrong?.focus();
  return !wrong;
}

/** Each file once, also if several segments are cut from it. @param {Row[]} rows */
function toRequest(rows) {
  /** @type {Map<string, File>} */
  const files = new Map();
  const keyOf = (/** @type {File} */ file) => JSON.stringify([file.name, file.size, file.lastModified]);
  const names = new Map([...new Set(rows.map(({ file }) => keyOf(file)))].map((key, k) => [key, `speech_${k + 1}`]));
  const segments = rows.map((row) => {
    const name = /** @type {string} */ (names.get(keyOf(row.file)));
    files.set(name, row.file);
    const { start_s: start, end_s: end, audio_offset_s: offset } = row.times;
    return {
      audio: name, start_s: start.valueAsNumber, face: valueOf(row.face),
      ...(end.value ? { end_s: end.valueAsNumber } : {}),
      ...(offset.valueAsNumber ? { audio_offset_s: offset.valueAsNumber } : {}),
    };
  });
  return { segments, files };
}
