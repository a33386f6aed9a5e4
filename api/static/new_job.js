// @ts-check
// The page for a new job.
/** @import { Offer, OpenApi, PageContext, Source } from "#types" */

import { Problem } from "./api.js";
import { announce, h } from "./elements.js";
import { choosePerson, offerFacePicker } from "./face_picker.js";
import { InvalidField } from "./fields.js";
import { bytes, percent } from "./format.js";
import { problemBox } from "./notices.js";
import { buildOptions } from "./options_form.js";
import { buildPeople, nameOf } from "./people.js";
import { buildSegments } from "./segments.js";
import { buildSource } from "./source_input.js";

/** @typedef {"video" | "audio"} Slot */
/** @typedef {PageContext & { offer: Offer } & ReturnType<typeof buildParts>} Draft */

const SLOTS = /** @type {const} */ (["video", "audio"]);
const MISSING = { video: "Choose a video or a picture of a face.", audio: "Choose or record the speech." };

/** @param {HTMLElement} root @param {PageContext} context */
export async function showNewJob(root, { api, signal, go }) {
  const [offer, document] = await Promise.all([api.offer(), api.document()]);
  if (signal.aborted) return;
  const draft = { offer, api, signal, go, ...buildParts(offer, document, api, signal) };
  const onsubmit = (/** @type {Event} */ event) => { event.preventDefault(); submit(draft); };
  const form = h("form", { class: "new-job", novalidate: true, onsubmit },
    h("div", { class: "sources" }, draft.video.element, draft.audio.element), draft.people.element,
    draft.segments.element,
    h("section", { class: "card", "aria-labelledby": "options-title" },
      h("h2", { id: "options-title" }, "Options"), engineNote(offer), draft.options.element),
    draft.problem,
    h("div", { class: "submit-bar" }, draft.button, draft.sending));
  root.replaceChildren(
    h("h1", {}, "New job"),
    h("p", { class: "lead" }, "Turns a video of a face and a speech track into a video of that face speaking."),
    form);
}

/** @param {Offer} offer @param {OpenApi} document @param {PageContext["api"]} api @param {AbortSignal} signal */
function buildParts(offer, document, api, signal) {
  const limits = offer.limits;
  const video = buildSource({
    slot: "video", heading: "Face", accept: "video/*,.mkv,.avi,image/png,image/jpeg,image/webp",
    hint: `A video or a still image: ${limits.accepted_files.video}`, maxBytes: limits.max_upload_bytes,
    onChange: () => people.clear(),
  });
  const audio = buildSource({
    slot: "audio", heading: "Speech", accept: "audio/*,video/*,.mkv,.flac,.ogg", canRecord: true,
    hint: `The speech: ${limits.accepted_files.audio}`, maxBytes: limits.max_upload_bytes,
  });
  const options = buildOptions(offer, document);
  offerFacePicker(options.fields.face, video);
  const { shape } = options.fields.face;
  const segments = buildSegments({
    video, faces: shape.kind === "choice" ? shape.choices : [], maxBytes: limits.max_upload_bytes,
    onSwitch: (isOn) => { audio.element.hidden = isOn; },
  });
  const people = buildPeople({
    api, signal, source: video,
    onFound: (found) => segments.offerPeople(found),
    onPick: (person) => {
      if (segments.isOn) return segments.pick(person);
      choosePerson(options.fields.face, person.track);
      return `${nameOf(person)} was chosen.`;
    },
  });
  const bar = h("progress", { max: 1, value: 0, "aria-label": "Upload" });
  const text = h("span", { class: "fine" });
  const stop = h("button", { type: "button", class: "quiet" }, "Stop the upload");
  return {
    video, audio, people, segments, options, bar, text, stop,
    sending: h("div", { class: "sending", hidden: true }, bar, text, stop),
    button: h("button", { class: "primary large" }, "Make the video"),
    problem: h("div", { class: "problem" }),
    idempotencyKey: newKey(),
    sent: "",
  };
}

/** @param {Offer} offer */
function engineNote(offer) {
  if (!offer.workers) {
    return h("p", { class: "notice warn" }, "No worker is live: jobs are accepted and wait for one.");
  }
  const lines = offer.engines.map((engine) => h("li", {},
    h("strong", {}, engine.name), ` on ${engine.device}: ${engine.description}`,
    engine.synthetic_weights && " Its weights are synthetic, for tests: its results are meaningless."));
  const missing = Object.entries(offer.unavailable).map(([name, reason]) =>
    h("li", {}, h("strong", {}, name), ` is not offered: ${reason}`));
  return h("ul", { class: "engines" }, lines, missing);
}

/** @param {Draft} draft */
async function submit(draft) {
  draft.problem.replaceChildren();
  const form = readForm(draft);
  if (!form) return;
  const stopper = new AbortController();
  draft.stop.onclick = () => stopper.abort();
  draft.signal.addEventListener("abort", () => stopper.abort(), { once: true });
  toggleSending(draft, true);
  try {
    const { idempotencyKey } = draft;
    const onProgress = (/** @type {number} */ sent, /** @type {number} */ total) => showSent(draft, sent, total);
    const job = await draft.api.submit(form, { idempotencyKey, signal: stopper.signal, onProgress });
    draft.go(`#/jobs/${job.id}`);
  } catch (fault) {
    toggleSending(draft, false);
    if (stopper.signal.aborted) announce("The upload was stopped.");
    else showRefusal(draft, fault);
  }
}

/** The form to send, or null if something is missing, which is then shown and focused. @param {Draft} draft */
function readForm(draft) {
  const { segments } = draft;
  const video = draft.video.read();
  const audio = segments.isOn ? null : draft.audio.read();
  const spoken = segments.isOn ? segments.read() : null;
  const speech = segments.isOn ? segments : draft.audio;
  draft.video.showError(video ? "" : MISSING.video);
  draft.audio.showError(audio || segments.isOn ? "" : MISSING.audio);
  if (!video || !(audio || spoken)) {
    (video ? speech : draft.video).focus();
    return null;
  }
  try {
    return toForm(draft, audio ? { video, audio } : { video }, spoken);
  } catch (fault) {
    if (!(fault instanceof InvalidField)) throw fault;
    draft.options.showErrors([{ pointer: `#/${fault.field.shape.path.replaceAll(".", "/")}`, message: fault.message }]);
    return null;
  }
}

/**
 * @param {Draft} draft
 * @param {Partial<Record<Slot, Source>>} sources
 * @param {{ segments: object[], files: Map<string, File> } | null} spoken
 */
function toForm(draft, sources, spoken) {
  const { spec, expression } = draft.options.read();
  const form = new FormData();
  /** @type {Map<string, File>} */
  const files = new Map(spoken?.files);
  if (spoken) spec.segments = spoken.segments;
  for (const slot of SLOTS) {
    const { url, file } = sources[slot] ?? {};
    if (url) spec[`${slot}_url`] = url;
    if (file) files.set(slot, file);
  }
  if (expression) files.set("expression", expression);
  form.append("spec", new Blob([JSON.stringify(spec)], { type: "application/json" }));
  for (const [name, file] of files) form.append(name, file);
  const named = [...files].map(([name, file]) => [name, file.name, file.size, file.lastModified]);
  renewKey(draft, JSON.stringify([spec, named]));
  return form;
}

/**
 * A retry of the same request keeps its key, so that it never makes a second job.
 * @param {Draft} draft
 * @param {string} content
 */
function renewKey(draft, content) {
  if (draft.sent && draft.sent !== content) draft.idempotencyKey = newKey();
  draft.sent = content;
}

function newKey() {
  const words = crypto.getRandomValues(new Uint32Array(4));
  return `console-${Array.from(words, (word) => word.toString(36)).join("-")}`;
}

/** @param {Draft} draft @param {number} sent @param {number} total */
function showSent(draft, sent, total) {
  draft.bar.value = total ? sent / total : 0;
  draft.text.textContent = sent < total
    ? `${bytes(sent)} of ${bytes(total)}, ${percent(sent / total)}`
    : "Sent. The service checks the files …";
}

/** @param {Draft} draft @param {boolean} isSending */
function toggleSending(draft, isSending) {
  draft.sending.hidden = !isSending;
  draft.button.disabled = isSending;
  draft.bar.value = 0;
  draft.text.textContent = isSending ? "Sending …" : "";
  if (isSending) announce("Sending the files");
}

/** @param {Draft} draft @param {unknown} fault */
function showRefusal(draft, fault) {
  draft.problem.replaceChildren(problemBox(fault));
  if (fault instanceof Problem) {
    for (const slot of SLOTS) {
      if (fault.message.includes(`The \`${slot}\` file`)) draft[slot].showError(fault.message);
    }
    const isOfSegments = (/** @type {{ pointer: string }} */ { pointer }) => pointer.startsWith("#/segments");
    draft.segments.showErrors(fault.errors.filter(isOfSegments));
    draft.options.showErrors(fault.errors.filter(({ pointer, message }) => {
      if (isOfSegments({ pointer })) return false;
      const slot = SLOTS.find((each) => pointer.startsWith(`#/${each}`));
      if (slot) draft[slot].showError(message);
      return !slot;
    }));
  }
  draft.problem.scrollIntoView({ block: "nearest" });
}
