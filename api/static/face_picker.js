// @ts-check
// Picks the place of a face by clicks on the preview, in pixels of the picture.
/** @import { Field, Player } from "#types" */

import { announce, h } from "./elements.js";

// The variant of `face` that is a person instead of a place.
const PERSON = "FaceTrackId";

/** @typedef {{ width: number, height: number }} Size */
/** @typedef {{ preview: HTMLElement, player: Element | null }} PreviewSource */

/**
 * Adds "Pick on the picture" to the variants of the option `face` that are places.
 * @param {Field} faceField
 * @param {PreviewSource} source
 */
export function offerFacePicker(faceField, source) {
  for (const variant of faceField.variants ?? []) {
    if (variant.name === PERSON) continue;
    const controls = (variant.field.fields ?? []).map((field) => [field.shape.name, field.control]);
    const fields = /** @type {Record<string, HTMLInputElement>} */ (Object.fromEntries(controls));
    const corners = "x" in fields ? [["x", "y"]] : [["left", "top"], ["right", "bottom"]];
    const note = h("p", { class: "fine" });
    const button = h("button", { type: "button", class: "quiet small" }, "Pick on the picture");
    button.addEventListener("click", () => pick(source, corners, fields, note));
    variant.field.element.append(h("div", { class: "row" }, button, note));
  }
}

/** Sets the option `face` to a person. @param {Field} faceField @param {string} track */
export function choosePerson(faceField, track) {
  const variant = faceField.variants?.find(({ name }) => name === PERSON);
  const [field] = variant?.field.fields ?? [];
  if (!field) return;
  field.control.value = track;
  faceField.control.value = PERSON;
  faceField.control.dispatchEvent(new Event("change"));
}

/**
 * @param {PreviewSource} source
 * @param {string[][]} corners
 * @param {Record<string, HTMLInputElement>} fields
 * @param {HTMLElement} note
 */
async function pick(source, corners, fields, note) {
  const player = /** @type {Player | null} */ (source.player);
  const size = player && sizeOf(player);
  if (!size) {
    note.textContent = "Choose the video or picture first.";
    return;
  }
  source.preview.scrollIntoView({ block: "center" });
  for (const [index, [x, y]] of corners.entries()) {
    const wanted = corners.length === 1 ? "the face" : index === 0 ? "the upper left corner" : "the lower right corner";
    note.textContent = `Click ${wanted} in the preview.`;
    announce(note.textContent);
    const point = await nextClick(player, size);
    fields[x].value = String(Math.round(point.x));
    fields[y].value = String(Math.round(point.y));
    if (fields.time_s && player instanceof HTMLVideoElement && player.currentTime) {
      fields.time_s.value = player.currentTime.toFixed(2);
    }
  }
  note.textContent = "Picked.";
}

/** @param {Player} player @returns {Size | null} */
function sizeOf(player) {
  const size = player instanceof HTMLVideoElement
    ? { width: player.videoWidth, height: player.videoHeight }
    : { width: player.naturalWidth, height: player.naturalHeight };
  return size.width ? size : null;
}

/**
 * The picture is scaled to fit its box (object-fit: contain), with bars beside it.
 * @param {Player} player
 * @param {Size} size
 * @returns {Promise<{ x: number, y: number }>}
 */
function nextClick(player, { width, height }) {
  player.classList.add("picking");
  return new Promise((resolve) => {
    player.addEventListener("click", (/** @type {Event} */ click) => {
      const event = /** @type {MouseEvent} */ (click);
      event.preventDefault();
      player.classList.remove("picking");
      const box = player.getBoundingClientRect();
      const scale = Math.min(box.width / width, box.height / height);
      /** @param {number} pointer @param {number} start @param {number} length @param {number} size */
      const at = (pointer, start, length, size) => {
        const pixel = (pointer - start - (length - size * scale) / 2) / scale;
        return Math.min(size, Math.max(0, pixel));
      };
      resolve({ x: at(event.clientX, box.left, box.width, width), y: at(event.clientY, box.top, box.height, height) });
    }, { once: true, capture: true });
  });
}
