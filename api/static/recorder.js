// @ts-check
// Records speech from the microphone as a file, which is then handled like a chosen one.

import { announce, h } from "./elements.js";
import { clock } from "./format.js";

// Types that browsers record (Chromium and Firefox WebM, Safari MP4); the first supported one is used.
const TYPES = [["audio/webm;codecs=opus", "webm"], ["audio/mp4", "m4a"], ["audio/ogg;codecs=opus", "ogg"]];

/** @param {(file: File) => void} take */
export function buildRecorder(take) {
  const type = TYPES.find(([name]) => globalThis.MediaRecorder?.isTypeSupported(name));
  // Browsers offer the microphone only over HTTPS and on localhost.
  if (!type || !navigator.mediaDevices) {
    return h("p", { class: "fine" }, "Recording needs HTTPS and a browser that can record.");
  }
  const button = h("button", { type: "button", class: "record" }, "Record");
  const time = h("output", { class: "record-time", "aria-hidden": "true" });
  const level = h("meter", { class: "level", min: 0, max: 1, hidden: true, "aria-label": "Loudness" });
  const error = h("p", { class: "error", role: "alert", hidden: true });
  /** @type {Awaited<ReturnType<typeof record>> | null} */
  let session = null;
  const show = (/** @type {boolean} */ isOn) => {
    button.textContent = isOn ? "Stop" : "Record";
    button.classList.toggle("on", isOn);
    level.hidden = !isOn;
    announce(isOn ? "Recording" : "Recording stopped");
  };
  const onTick = (/** @type {number} */ elapsedS, /** @type {number} */ loudness) => {
    time.textContent = clock(elapsedS);
    level.value = loudness;
  };
  button.addEventListener("click", async () => {
    if (session) {
      session.stop();
      return;
    }
    error.hidden = true;
    try {
      session = await record(type, onTick);
    } catch (fault) {
      error.textContent = explain(fault);
      error.hidden = false;
      return;
    }
    show(true);
    const file = await session.done;
    session = null;
    show(false);
    time.textContent = "";
    take(file);
  });
  return h("div", { class: "recorder" }, button, time, level, error);
}

/** @param {string[]} type @param {(elapsedS: number, loudness: number) => void} onTick */
async function record([type, suffix], onTick) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream, { mimeType: type });
  const meter = new LevelMeter(stream);
  /** @type {Blob[]} */
  const chunks = [];
  const began = performance.now();
  const timer = setInterval(() => onTick((performance.now() - began) / 1000, meter.read()), 100);
  recorder.ondataavailable = (event) => chunks.push(event.data);
  /** @type {Promise<File>} */
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

  /** @param {MediaStream} stream */
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

/** @param {unknown} fault */
function explain(fault) {
  const { name, message } = fault instanceof Error ? fault : new Error(String(fault));
  if (name === "NotAllowedError") {
    return "The browser denied access to the microphone. Allow it for this page and try again.";
  }
  if (name === "NotFoundError") return "There is no microphone.";
  return `The microphone cannot be used: ${message}`;
}
