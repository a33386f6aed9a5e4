// Input and result side by side, under one control. The result leads; the input follows its clock.

import { h, unique } from "./elements.js";
import { pause } from "./events.js";
import { clock } from "./format.js";
import { sourceTime } from "./source_time.js";

// A seek stops the picture for a while, so a player that runs off a little is only hurried or slowed: a second of
// difference by three times the speed. Beyond this it is set anew.
const SEEK_BEYOND_S = 0.6;
const HURRY_PER_S = 3;
// Of the life of a link, after which the next one is fetched.
const RENEW_AFTER = 0.8;
const RENEW_LEAST_MS = 10_000;
const SPEEDS = [0.25, 0.5, 1, 1.5];

// media: GET /jobs/{id}/media; askMedia() asks for it again. Gives { element, seek(s), onTime(listener) }.
export function buildComparison(job, media, askMedia, signal) {
  const result = h("video", { src: relative(media.result.url), playsinline: true, preload: "auto", "aria-label": "Result" });
  const input = buildInput(media.video);
  const players = h("div", { class: "players" },
    figure("Input", input ?? h("p", { class: "fine missing" }, "The input was named by its address and is not kept here.")),
    figure("Result", result));
  const links = { now: media };
  const listeners = [];
  const controls = buildControls(result, job);
  const download = h("a", { class: "button primary", href: relative(media.result.url), download: "" }, "Download");
  const element = h("section", { class: "card comparison", "aria-label": "Input and result" }, players, controls.element,
    h("div", { class: "row" }, download));
  const tick = () => {
    if (signal.aborted) return result.pause();
    controls.show();
    if (input?.tagName === "VIDEO") follow(input, result, job);
    for (const listener of listeners) listener(result.currentTime);
    return requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
  const giveUp = () => players.append(h("p", { class: "error", role: "alert" },
    "The browser can not play this result; download it instead."));
  result.addEventListener("error", () => reopen(result, links.now.result) || giveUp());
  if (input?.tagName === "VIDEO") {
    input.addEventListener("error", () => reopen(input, links.now.video) || input.replaceWith(
      h("p", { class: "fine missing" }, "The browser can not play the input; the result is not affected.")));
  }
  keepFresh(links, askMedia, signal, () => { download.href = relative(links.now.result.url); });
  return {
    element, onTime: (listener) => listeners.push(listener),
    seek: (time) => { result.currentTime = Math.min(time, result.duration || time); },
  };
}

function buildInput(link) {
  if (!link) return null;
  const src = relative(link.url);
  if (link.content_type.startsWith("image/")) return h("img", { src, alt: "The input, a still picture" });
  const input = h("video", { src, playsinline: true, preload: "auto", "aria-label": "Input, without its sound" });
  input.muted = true;
  return input;
}

// A page may stay open for longer than its links live: the next ones are there before these end.
async function keepFresh(links, askMedia, signal, onNew) {
  while (!signal.aborted) {
    const lifeMs = new Date(links.now.expires_at) - Date.now();
    await pause(Math.max(RENEW_LEAST_MS, lifeMs * RENEW_AFTER), signal);
    if (signal.aborted) return;
    // A service that is away now is asked again; a job that was deleted has nothing to play.
    const next = await askMedia().catch((fault) => (fault.status === 404 ? null : links.now));
    if (!next?.result) return;
    links.now = next;
    onNew();
  }
}

// True when there is a newer link than the one that broke: the player goes on with it where it was.
function reopen(player, link) {
  const src = relative(link.url);
  if (player.getAttribute("src") === src) return false;
  const at = player.currentTime;
  player.src = src;
  player.currentTime = at;
  return true;
}

// Links of this service are relative to it, so that they work below a path of a proxy too.
const relative = (url) => (url.startsWith("/") ? url.slice(1) : url);

const figure = (caption, player) => h("figure", {}, h("figcaption", {}, caption), player);

function follow(input, result, job) {
  if (input.readyState < 1 || !result.duration) return;
  const clip = { inputS: input.duration, outputS: result.duration, frameS: 1 / job.result.fps };
  const { time: begins, rate } = sourceTime(job.options.length_mode, result.currentTime, clip);
  // Into the middle of the frame: at its very beginning, rounding decides which of two is shown.
  const time = begins + clip.frameS / 2;
  const plays = !result.paused && !result.ended && rate > 0;
  const behindS = time - input.currentTime;
  if (Math.abs(behindS) > (plays ? SEEK_BEYOND_S : 1e-3) && !input.seeking) input.currentTime = time;
  if (plays) input.playbackRate = playable(rate * result.playbackRate * (1 + HURRY_PER_S * behindS));
  if (plays && input.paused) input.play().catch(() => {});
  if (!plays && !input.paused) input.pause();
}

// Browsers play at 1/16 to 16 times the speed. In steps, because setting a rate is not free.
const playable = (rate) => Math.min(16, Math.max(0.0625, Math.round(rate * 20) / 20));

function buildControls(result, job) {
  const frameS = 1 / job.result.fps;
  const play = h("button", { type: "button", class: "primary play" }, "Play");
  const seek = h("input", { type: "range", min: 0, max: job.result.duration_s, step: "any", value: 0, "aria-label": "Position" });
  const time = h("output", { class: "clock" });
  const sound = h("button", { type: "button", class: "quiet small", "aria-pressed": "false" }, "Mute");
  const id = unique("speed");
  const speed = h("select", { id }, SPEEDS.map((rate) => h("option", { value: rate, selected: rate === 1 }, `${rate} ×`)));
  const step = (label, frames) => h("button", {
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
    h("div", { class: "row" }, step("One frame back", -1), step("One frame on", 1), sound,
      h("label", { class: "unseen", for: id }, "Speed"), speed));
  let shown = null;
  const show = () => {
    const state = `${result.paused} ${result.currentTime}`;
    if (state === shown) return;
    shown = state;
    play.textContent = result.paused ? "Play" : "Pause";
    seek.value = result.currentTime;
    const position = `${clock(result.currentTime)} of ${clock(result.duration || job.result.duration_s)}`;
    time.textContent = position.replace(" of ", " / ");
    seek.setAttribute("aria-valuetext", position);
  };
  return { element, show };
}
