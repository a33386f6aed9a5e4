// Speech from the microphone, as a file that goes the way of a chosen one.

import { announce, h } from "./elements.js";
import { clock } from "./format.js";

// What browsers record (Chromium and Firefox WebM, Safari MP4); the first that this one can.
const KINDS = [["audio/webm;codecs=opus", "webm"], ["audio/mp4", "m4a"], ["audio/ogg;codecs=opus", "ogg"]];

export function buildRecorder(take) {
  const kind = KINDS.find(([type]) => globalThis.MediaRecorder?.isTypeSupported(type));
  // A page that did not come over HTTPS or from this machine gets no microphone.
  if (!kind || !navigator.mediaDevices) return h("p", { class: "fine" }, "Recording needs HTTPS and a browser that can record.");
  const button = h("button", { type: "button", class: "record" }, "Record");
  const time = h("output", { class: "record-time", "aria-hidden": "true" });
  const level = h("meter", { class: "level", min: 0, max: 1, hidden: true, "aria-label": "Loudness" });
  const error = h("p", { class: "error", role: "alert", hidden: true });
  let session = null;
  const show = (isOn) => {
    button.textContent = isOn ? "Stop" : "Record";
    button.classList.toggle("on", isOn);
    level.hidden = !isOn;
    announce(isOn ? "Recording" : "Recording stopped");
  };
  button.addEventListener("click", async () => {
    if (session) return session.stop();
    error.hidden = true;
    try {
      session = await record(kind, (elapsedS, loudness) => { time.textContent = clock(elapsedS); level.value = loudness; });
    } catch (fault) {
      error.textContent = explain(fault);
      error.hidden = false;
      return undefined;
    }
    show(true);
    const file = await session.done;
    session = null;
    show(false);
    time.textContent = "";
    return take(file);
  });
  return h("div", { class: "recorder" }, button, time, level, error);
}

async function record([type, suffix], tell) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream, { mimeType: type });
  const meter = new LevelMeter(stream);
  const chunks = [];
  const began = performance.now();
  const timer = setInterval(() => tell((performance.now() - began) / 1000, meter.read()), 100);
  recorder.ondataavailable = (event) => chunks.push(event.data);
  const done = new Promise((resolve) => {
    recorder.onstop = () => {
      clearInterval(timer);
      meter.close();
      for (const track of stream.getTracks()) track.stop();
      resolve(new File(chunks, `recording.${suffix}`, { type: type.split(";")[0] }));
    };
  });
  recorder.start(1000);
  return { done, stop: () => recorder.stop() };
}

class LevelMeter {
  #context = new AudioContext();
  #analyzer = this.#context.createAnalyser();
  #samples = new Float32Array(this.#analyzer.fftSize);

  constructor(stream) {
    this.#context.createMediaStreamSource(stream).connect(this.#analyzer);
  }

  // 0..1: 50 dB below full scale to full scale
  read() {
    this.#analyzer.getFloatTimeDomainData(this.#samples);
    const power = this.#samples.reduce((sum, sample) => sum + sample * sample, 0) / this.#samples.length;
    return Math.min(1, Math.max(0, 1 + (10 * Math.log10(power + 1e-12)) / 50));
  }

  close() {
    this.#context.close();
  }
}

function explain(fault) {
  if (fault.name === "NotAllowedError") return "The browser did not allow the microphone. Allow it for this page and try again.";
  if (fault.name === "NotFoundError") return "There is no microphone.";
  return `The microphone can not be used: ${fault.message}`;
}
