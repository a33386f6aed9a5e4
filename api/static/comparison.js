// @ts-check
// Input and result side by side, under one control. The result leads; the input follows its clock.
/** @import { FinishedJob, MediaLink, MediaLinks } from "#types" */

import { h, unique } from "./elements.js";
import { pause } from "./events.js";
import { clock } from "./format.js";
import { sourceTime } from "./source_time.js";

// A seek stalls the picture, so a player with a small lag only plays faster or slower: three times the speed for a lag
// of one second. Beyond this lag it seeks.
const SEEK_BEYOND_S = 0.6;
const SPEED_UP_PER_S = 3;
// Share of a link's lifetime after which the next one is fetched.
const RENEW_AFTER = 0.8;
const RENEW_LEAST_MS = 10_000;
const SPEEDS = [0.25, 0.5, 1, 1.5];

/** @typedef {NonNullable<ReturnType<typeof buildComparison>>} Comparison */
/** @typedef {MediaLinks & { result: MediaLink }} PlayableLinks */

/**
 * null if the result cannot be played.
 * @param {FinishedJob} job
 * @param {MediaLinks} media
 * @param {() => Promise<MediaLinks>} fetchMedia fetches the links again
 * @param {AbortSignal} signal
 */
export function buildComparison(job, media, fetchMedia, signal) {
  if (!isPlayable(media)) return null;
  const src = relative(media.result.url);
  const result = h("video", { src, playsinline: true, preload: "auto", "aria-label": "Result" });
  const input = buildInput(media.video);
  const noInput = "The input was given by its address and is not stored.";
  const players = h("div", { class: "players" },
    figure("Input", input ?? h("p", { class: "fine missing" }, noInput)),
    figure("Result", result));
  const links = { now: media };
  /** @type {((timeS: number) => void)[]} */
  const listeners = [];
  const controls = buildControls(result, job);
  const download = h("a", { class: "button primary", href: src, download: "" }, "Download");
  const element = h("section", { class: "card comparison", "aria-label": "Input and result" },
    players, controls.element, h("div", { class: "row" }, download));
  const tick = () => {
    if (signal.aborted) {
      result.pause();
      return;
    }
    controls.show();
    if (input instanceof HTMLVideoElement) follow(input, result, job);
    for (const listener of listeners) listener(result.currentTime);
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
  const giveUp = () => players.append(h("p", { class: "error", role: "alert" },
    "The browser cannot play this result; download it instead."));
  result.addEventListener("error", () => reopen(result, links.now.result) || giveUp());
  if (input instanceof HTMLVideoElement) {
    input.addEventListener("error", () => reopen(input, links.now.video) || input.replaceWith(
      h("p", { class: "fine missing" }, "The browser cannot play the input; the result is not affected.")));
  }
  keepFresh(links, fetchMedia, signal, () => { download.href = relative(links.now.result.url); });
  return {
    element,
    onTime: (/** @type {(timeS: number) => void} */ listener) => { listeners.push(listener); },
    seek: (/** @type {number} */ time) => { result.currentTime = Math.min(time, result.duration || time); },
  };
}

/** @param {MediaLinks} media @returns {media is PlayableLinks} */
const isPlayable = (media) => media.result !== null;

/** @param {MediaLink | null} link */
function buildInput(link) {
  if (!link) return null;
  const src = relative(link.url);
  if (link.content_type.startsWith("image/")) return h("img", { src, alt: "The input, a still picture" });
  const input = h("video", { src, playsinline: true, preload: "auto", "aria-label": "Input, without its sound" });
  input.muted = true;
  return input;
}

/**
 * Replaces the links before they expire, because a page may stay open longer.
 * @param {{ now: PlayableLinks }} links
 * @param {() => Promise<MediaLinks>} fetchMedia
 * @param {AbortSignal} signal
 * @param {() => void} onNew
 */
async function keepFresh(links, fetchMedia, signal, onNew) {
  while (!signal.aborted) {
    const lifeMs = Date.parse(links.now.expires_at) - Date.now();
    await pause(Math.max(RENEW_LEAST_MS, lifeMs * RENEW_AFTER), signal);
    if (signal.aborted) return;
    // Retry while the service is unavailable; stop if the job was deleted.
    const next = await fetchMedia().catch((fault) => (fault.status === 404 ? null : links.now));
    if (!next || !isPlayable(next)) return;
    links.now = next;
    onNew();
  }
}

/**
 * True if there is a newer link than the one that failed: the player continues with it.
 * @param {HTMLVideoElement} player
 * @param {MediaLink | null} link
 */
function reopen(player, link) {
  if (!link) return false;
  const src = relative(link.url);
  if (player.getAttribute("src") === src) return false;
  const at = player.currentTime;
  player.src = src;
  player.currentTime = at;
  return true;
}

/** Links of this service are relative, so that they also work below a path of a proxy. @param {string} url */
const relative = (url) => (url.startsWith("/") ? url.slice(1) : url);

/** @param {string} caption @param {HTMLElement} player */
const figure = (caption, player) => h("figure", {}, h("figcaption", {}, caption), player);

/** @param {HTMLVideoElement} input @param {HTMLVideoElement} result @param {FinishedJob} job */
function follow(input, result, job) {
  if (input.readyState < 1 || !result.duration) return;
  const clip = { inputS: input.duration, outputS: result.duration, frameS: 1 / job.result.fps };
  const { time: begins, rate } = sourceTime(job.options.length_mode, result.currentTime, clip);
  // The middle of the frame: at its very beginning, rounding decides which of two frames is shown.
  const time = begins + clip.frameS / 2;
  const plays = !result.paused && !result.ended && rate > 0;
  const lagS = time - input.currentTime;
  if (Math.abs(lagS) > (plays ? SEEK_BEYOND_S : 1e-3) && !input.seeking) input.currentTime = time;
  if (plays) input.playbackRate = playable(rate * result.playbackRate * (1 + SPEED_UP_PER_S * lagS));
  if (plays && input.paused) input.play().catch(() => {});
  if (!plays && !input.paused) input.pause();
}

/** Browsers play at 1/16 to 16 times the speed. In steps, because setting a rate is not free. @param {number} rate */
const playable = (rate) => Math.min(16, Math.max(0.0625, Math.round(rate * 20) / 20));

/** @param {HTMLVideoElement} result @param {FinishedJob} job */
function buildControls(result, job) {
  const frameS = 1 / job.result.fps;
  const play = h("button", { type: "button", class: "primary play" }, "Play");
  const max = job.result.duration_s;
  const seek = h("input", { type: "range", min: 0, max, step: "any", value: 0, "aria-label": "Position" });
  const time = h("output", { class: "clock" });
  const sound = h("button", { type: "button", class: "quiet small", "aria-pressed": "false" }, "Mute");
  const id = unique("speed");
  const speeds = SPEEDS.map((rate) => h("option", { value: rate, selected: rate === 1 }, `${rate} ×`));
  const speed = h("select", { id }, speeds);
  const step = (/** @type {string} */ label, /** @type {number} */ frames) => h("button", {
    type: "button", class: "quiet small", "aria-label": label,
    onclick: () => { result.pause(); result.currentTime = Math.max(0, result.currentTime + frames * frameS); },
  }, frames < 0 ? "‹ frame" : "frame ›");
  play.addEventListener("click", () => (result.paused ? result.play() : result.pause()));
  seek.addEventListener("input", () => { result.currentTime = Number(seek.value); });
  sound.addEventListener("click", () => {
    result.muted = !result.muted;
    sound.setAttribute("aria-pressed", String(result.muted));
  });
  speed.addEventListener("change", () => { result.playbackRate = Number(speed.value); });
  const element = h("div", { class: "controls" }, play, seek, time,
    h("div", { class: "row" }, step("One frame back", -1), step("One frame forward", 1), sound,
      h("label", { class: "unseen", for: id }, "Speed"), speed));
  let shown = "";
  const show = () => {
    const state = `${result.paused} ${result.currentTime}`;
    if (state === shown) return;
    shown = state;
    play.textContent = result.paused ? "Play" : "Pause";
    seek.value = String(result.currentTime);
    const position = `${clock(result.currentTime)} of ${clock(result.duration || job.result.duration_s)}`;
    time.textContent = position.replace(" of ", " / ");
    seek.setAttribute("aria-valuetext", position);
  };
  return { element, show };
}
