// One input of a job: dropped, chosen, recorded, or named by its address. { element, read(), showError(text), preview }

import { h, unique, announce } from "./elements.js";
import { bytes } from "./format.js";
import { buildRecorder } from "./recorder.js";

// slot: video or audio. accepted: what the service takes, in words. maxBytes: its largest file.
export function buildSource({ slot, heading, hint, accept, accepted, maxBytes, canRecord }) {
  const id = unique(slot);
  const state = { file: null, objectUrl: null };
  const chooser = h("input", { type: "file", id, accept, class: "unseen-input", "aria-describedby": `${id}-hint ${id}-error` });
  const error = h("p", { class: "error", id: `${id}-error`, role: "alert", hidden: true });
  const preview = h("div", { class: "preview", hidden: true });
  const told = h("p", { class: "chosen", hidden: true });
  const address = h("input", { type: "url", id: `${id}-url`, placeholder: "https://…", inputmode: "url" });
  const remove = h("button", { type: "button", class: "quiet small", hidden: true, "aria-label": `Remove: ${heading}` }, "Remove");
  const prompt = h("label", { class: "prompt", for: id },
    h("strong", {}, "Choose a file"), h("span", {}, " or drop it here"), h("small", { id: `${id}-hint` }, hint ?? accepted));
  const zone = h("div", { class: "zone" }, chooser, prompt, preview);

  const showError = (text) => {
    error.textContent = text;
    error.hidden = !text;
    chooser.toggleAttribute("aria-invalid", Boolean(text));
  };
  const take = (file) => {
    showError("");
    if (file && maxBytes && file.size > maxBytes) {
      return showError(`This file has ${bytes(file.size)}; the service takes ${bytes(maxBytes)} at most.`);
    }
    if (state.objectUrl) URL.revokeObjectURL(state.objectUrl);
    state.file = file;
    state.objectUrl = file && URL.createObjectURL(file);
    zone.classList.toggle("filled", Boolean(file));
    prompt.hidden = preview.hidden = !file;
    prompt.hidden = Boolean(file);
    preview.replaceChildren(...(file ? [playerFor(file, state.objectUrl, heading)] : []));
    told.hidden = remove.hidden = !file;
    told.textContent = file ? `${file.name}, ${bytes(file.size)}` : "";
    address.disabled = Boolean(file);
    if (file) announce(`${heading}: ${file.name}`);
  };
  chooser.addEventListener("change", () => chooser.files[0] && take(chooser.files[0]));
  remove.addEventListener("click", () => { chooser.value = ""; take(null); chooser.focus(); });
  address.addEventListener("input", () => showError(""));
  acceptDrops(zone, take);

  const element = h("section", { class: "source", "aria-labelledby": `${id}-title` },
    h("h2", { id: `${id}-title` }, heading), zone,
    h("div", { class: "row" }, told, remove, canRecord && buildRecorder(take)),
    h("label", { class: "address", for: `${id}-url` }, "or the address of a file"), address, error);
  return {
    element, showError, preview, focus: () => chooser.focus(),
    get player() { return preview.firstElementChild; },
    read: () => (state.file ? { file: state.file } : address.value.trim() ? { url: address.value.trim() } : null),
  };
}

function playerFor(file, url, heading) {
  if (file.type.startsWith("image/")) return h("img", { src: url, alt: `${heading}: ${file.name}` });
  const tag = file.type.startsWith("audio/") ? "audio" : "video";
  const player = h(tag, { src: url, controls: true, preload: "metadata", "aria-label": `${heading}: ${file.name}` });
  if (tag === "video") player.setAttribute("playsinline", "");
  player.addEventListener("error", () => player.replaceWith(
    h("p", { class: "fine" }, "Your browser can not show this kind of file; the service may still read it.")));
  return player;
}

function acceptDrops(zone, take) {
  let depth = 0;
  const light = (change) => { depth = Math.max(0, depth + change); zone.classList.toggle("over", depth > 0); };
  zone.addEventListener("dragenter", (event) => { event.preventDefault(); light(1); });
  zone.addEventListener("dragleave", () => light(-1));
  zone.addEventListener("dragover", (event) => event.preventDefault());
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    light(-depth);
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}
