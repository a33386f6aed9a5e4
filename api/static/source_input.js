// @ts-check
// One input of a job: dropped, chosen, recorded, or given by its address.
/** @import { Source } from "#types" */

import { announce, h, unique } from "./elements.js";
import { bytes } from "./format.js";
import { buildRecorder } from "./recorder.js";

/**
 * @param {object} options
 * @param {"video" | "audio"} options.slot
 * @param {string} options.heading
 * @param {string} options.hint
 * @param {string} options.accept types for the file dialog
 * @param {number} options.maxBytes largest file that the service accepts
 * @param {boolean} [options.canRecord]
 * @param {() => void} [options.onChange]
 */
export function buildSource({ slot, heading, hint, accept, maxBytes, canRecord = false, onChange }) {
  const id = unique(slot);
  /** @type {{ file: File | null, objectUrl: string | null }} */
  const state = { file: null, objectUrl: null };
  const described = `${id}-hint ${id}-error`;
  const chooser = h("input", { type: "file", id, accept, class: "unseen-input", "aria-describedby": described });
  const error = h("p", { class: "error", id: `${id}-error`, role: "alert", hidden: true });
  const preview = h("div", { class: "preview", hidden: true });
  const chosen = h("p", { class: "chosen", hidden: true });
  const address = h("input", { type: "url", id: `${id}-url`, placeholder: "https://…", inputmode: "url" });
  const label = `Remove: ${heading}`;
  const remove = h("button", { type: "button", class: "quiet small", hidden: true, "aria-label": label }, "Remove");
  const prompt = h("label", { class: "prompt", for: id },
    h("strong", {}, "Choose a file"), h("span", {}, " or drop it here"), h("small", { id: `${id}-hint` }, hint));
  const zone = h("div", { class: "zone" }, chooser, prompt, preview);

  const showError = (/** @type {string} */ text) => {
    error.textContent = text;
    error.hidden = !text;
    chooser.toggleAttribute("aria-invalid", Boolean(text));
  };
  const take = (/** @type {File | null} */ file) => {
    showError("");
    if (file && file.size > maxBytes) {
      showError(`This file has ${bytes(file.size)}; the service takes ${bytes(maxBytes)} at most.`);
      return;
    }
    if (state.objectUrl) URL.revokeObjectURL(state.objectUrl);
    state.file = file;
    state.objectUrl = file && URL.createObjectURL(file);
    zone.classList.toggle("filled", Boolean(file));
    prompt.hidden = Boolean(file);
    preview.hidden = chosen.hidden = remove.hidden = !file;
    preview.replaceChildren(...(file && state.objectUrl ? [playerFor(file, state.objectUrl, heading)] : []));
    chosen.textContent = file ? `${file.name}, ${bytes(file.size)}` : "";
    address.disabled = Boolean(file);
    onChange?.();
    if (file) announce(`${heading}: ${file.name}`);
  };
  chooser.addEventListener("change", () => chooser.files?.[0] && take(chooser.files[0]));
  remove.addEventListener("click", () => { chooser.value = ""; take(null); chooser.focus(); });
  address.addEventListener("input", () => { showError(""); onChange?.(); });
  acceptDrops(zone, take);

  const element = h("section", { class: "source", "aria-labelledby": `${id}-title` },
    h("h2", { id: `${id}-title` }, heading), zone,
    h("div", { class: "row" }, chosen, remove, canRecord && buildRecorder(take)),
    h("label", { class: "address", for: `${id}-url` }, "or the address of a file"), address, error);
  return {
    element, showError, preview, focus: () => chooser.focus(),
    get player() { return preview.firstElementChild; },
    /** @returns {Source | null} */
    read: () => (state.file ? { file: state.file } : address.value.trim() ? { url: address.value.trim() } : null),
  };
}

/** @param {File} file @param {string} url @param {string} heading */
function playerFor(file, url, heading) {
  if (file.type.startsWith("image/")) return h("img", { src: url, alt: `${heading}: ${file.name}` });
  const properties = { src: url, controls: true, preload: "metadata", "aria-label": `${heading}: ${file.name}` };
  const isAudio = file.type.startsWith("audio/");
  const player = isAudio ? h("audio", properties) : h("video", { ...properties, playsinline: true });
  player.addEventListener("error", () => player.replaceWith(
    h("p", { class: "fine" }, "Your browser cannot play this file; the service may still accept it.")));
  return player;
}

/** @param {HTMLElement} zone @param {(file: File) => void} take */
function acceptDrops(zone, take) {
  let depth = 0;
  const enter = (/** @type {number} */ change) => {
    depth = Math.max(0, depth + change);
    zone.classList.toggle("over", depth > 0);
  };
  zone.addEventListener("dragenter", (event) => { event.preventDefault(); enter(1); });
  zone.addEventListener("dragleave", () => enter(-1));
  zone.addEventListener("dragover", (event) => event.preventDefault());
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    enter(-depth);
    const file = event.dataTransfer?.files[0];
    if (file) take(file);
  });
}
