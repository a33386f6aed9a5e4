// The page where a job is made.

import { announce, h } from "./elements.js";
import { offerFacePicker } from "./face_picker.js";
import { InvalidField } from "./fields.js";
import { bytes, percent } from "./format.js";
import { problemBox } from "./notices.js";
import { buildOptions } from "./options_form.js";
import { buildSource } from "./source_input.js";
import { submitJob } from "./submission.js";

const WANTED = { video: "Choose a video or a picture of a face.", audio: "Choose or record the speech." };

export async function showNewJob(root, { api, signal, go }) {
  const [offer, document] = await Promise.all([api.offer(), api.document()]);
  if (signal.aborted) return;
  const draft = { offer, api, signal, go, ...buildParts(offer, document) };
  const form = h("form", { class: "new-job", novalidate: true, onsubmit: (event) => { event.preventDefault(); submit(draft); } },
    h("div", { class: "sources" }, draft.video.element, draft.audio.element),
    h("section", { class: "card", "aria-labelledby": "options-title" },
      h("h2", { id: "options-title" }, "Options"), engineNote(offer), draft.options.element),
    draft.problem,
    h("div", { class: "submit-bar" }, draft.button, draft.sending));
  root.replaceChildren(
    h("h1", {}, "New job"),
    h("p", { class: "lead" }, "A face that talks and a speech track in; the same face saying the speech out."),
    form);
}

function buildParts(offer, document) {
  const limits = offer.limits;
  const video = buildSource({
    slot: "video", heading: "Face", accept: "video/*,.mkv,.avi,image/png,image/jpeg,image/webp",
    hint: `A video or a still image: ${limits.accepted_files.video}`, maxBytes: limits.max_upload_bytes,
  });
  const audio = buildSource({
    slot: "audio", heading: "Speech", accept: "audio/*,video/*,.mkv,.flac,.ogg", canRecord: true,
    hint: `What is to be said: ${limits.accepted_files.audio}`, maxBytes: limits.max_upload_bytes,
  });
  const options = buildOptions(offer, document);
  offerFacePicker(options.fields.face, video);
  const bar = h("progress", { max: 1, value: 0, "aria-label": "Upload" });
  const text = h("span", { class: "fine" });
  const stop = h("button", { type: "button", class: "quiet" }, "Stop the upload");
  return {
    video, audio, options, bar, text, stop,
    sending: h("div", { class: "sending", hidden: true }, bar, text, stop),
    button: h("button", { class: "primary large" }, "Make the video"),
    problem: h("div", { class: "problem" }),
    draftKey: newKey(),
    sent: "",
  };
}

function engineNote(offer) {
  if (!offer.workers) {
    return h("p", { class: "notice warn" }, "No worker is live: a job is accepted and waits until one is.");
  }
  const lines = offer.engines.map((engine) => h("li", {},
    h("strong", {}, engine.name), ` on ${engine.device}: ${engine.description}`,
    engine.synthetic_weights && " Its weights were made up for tests: its results mean nothing."));
  const missing = Object.entries(offer.unavailable).map(([name, reason]) =>
    h("li", {}, h("strong", {}, name), ` is not offered: ${reason}`));
  return h("ul", { class: "engines" }, lines, missing);
}

async function submit(draft) {
  draft.problem.replaceChildren();
  const form = readForm(draft);
  if (!form) return;
  const stopper = new AbortController();
  draft.stop.onclick = () => stopper.abort();
  draft.signal.addEventListener("abort", () => stopper.abort(), { once: true });
  toggleSending(draft, true);
  try {
    const job = await submitJob(draft.api, form, { draftKey: draft.draftKey, signal: stopper.signal, onProgress: tell(draft) });
    draft.go(`#/jobs/${job.id}`);
  } catch (fault) {
    toggleSending(draft, false);
    if (fault.name === "AbortError") announce("The upload was stopped.");
    else showRefusal(draft, fault);
  }
}

// The form to send, or null when something is missing; the person is led to it.
function readForm(draft) {
  const sources = { video: draft.video.read(), audio: draft.audio.read() };
  for (const [slot, message] of Object.entries(WANTED)) draft[slot].showError(sources[slot] ? "" : message);
  const missing = Object.keys(sources).find((slot) => !sources[slot]);
  if (missing) {
    draft[missing].focus();
    return null;
  }
  try {
    return toForm(draft, sources);
  } catch (fault) {
    if (!(fault instanceof InvalidField)) throw fault;
    draft.options.showErrors([{ pointer: `#/${fault.field.shape.path.replaceAll(".", "/")}`, message: fault.message }]);
    return null;
  }
}

function toForm(draft, sources) {
  const { spec, expression } = draft.options.read();
  const form = new FormData();
  for (const [slot, source] of Object.entries(sources)) {
    if (source.url) spec[`${slot}_url`] = source.url;
  }
  form.append("spec", new Blob([JSON.stringify(spec)], { type: "application/json" }));
  for (const [slot, source] of Object.entries(sources)) if (source.file) form.append(slot, source.file);
  if (expression) form.append("expression", expression);
  const files = [sources.video.file, sources.audio.file, expression];
  renewKey(draft, JSON.stringify([spec, files.map((file) => file && [file.name, file.size, file.lastModified])]));
  return form;
}

// A repetition of the same request keeps its key, so that it never makes a second job; another request gets another.
function renewKey(draft, content) {
  if (draft.sent && draft.sent !== content) draft.draftKey = newKey();
  draft.sent = content;
}

function newKey() {
  const words = crypto.getRandomValues(new Uint32Array(4));
  return `console-${Array.from(words, (word) => word.toString(36)).join("-")}`;
}

function tell(draft) {
  return (sent, total) => {
    draft.bar.value = total ? sent / total : 0;
    draft.text.textContent = sent < total
      ? `${bytes(sent)} of ${bytes(total)}, ${percent(sent / total)}`
      : "Sent. The service checks the files …";
  };
}

function toggleSending(draft, isSending) {
  draft.sending.hidden = !isSending;
  draft.button.disabled = isSending;
  draft.bar.value = 0;
  draft.text.textContent = isSending ? "Sending …" : "";
  if (isSending) announce("Sending the files");
}

function showRefusal(draft, problem) {
  draft.problem.replaceChildren(problemBox(problem));
  const slots = { "`video`": draft.video, "`audio`": draft.audio };
  const slot = Object.keys(slots).find((name) => problem.message.includes(`The ${name} file`));
  const named = problem.errors?.map((error) => ({ ...error, slot: /^#\/(video|audio)/.exec(error.pointer)?.[1] })) ?? [];
  if (slot) slots[slot].showError(problem.message);
  for (const error of named.filter((each) => each.slot)) draft[error.slot].showError(error.message);
  draft.options.showErrors(named.filter((each) => !each.slot));
  draft.problem.scrollIntoView({ block: "nearest" });
}
