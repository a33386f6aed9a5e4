// @ts-check
// Numbers, times and names for people.

const NUMBER = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** @param {number} value */
export const number = (value) => NUMBER.format(value);
/** @param {number} value */
export const exactly = (value) => value.toLocaleString("en");

/** @param {number} count */
export function bytes(count) {
  const units = ["B", "kB", "MB", "GB"];
  let step = 0;
  for (; count >= 1000 && step < units.length - 1; step += 1) count /= 1000;
  return `${step && count < 100 ? count.toFixed(1) : Math.round(count)} ${units[step]}`;
}

/** @param {number} value */
export function seconds(value) {
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 90) return `${Math.round(value)} s`;
  const minutes = Math.round(value / 60);
  return minutes < 90 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}

/** 0:04.25, the clock of a player @param {number} value */
export function clock(value) {
  const hundredths = Math.floor((value || 0) * 100 + 1e-6);
  const pad = (/** @type {number} */ n) => String(n).padStart(2, "0");
  return `${Math.floor(hundredths / 6000)}:${pad(Math.floor(hundredths / 100) % 60)}.${pad(hundredths % 100)}`;
}

/** @param {string | null | undefined} text */
export const moment = (text) => (text ? MOMENT.format(new Date(text)) : "");

const ACRONYMS = /\b(av|cpbd|crf|csim|fps|lse|psnr|ssim|url)\b/g;

/** length_mode -> Length mode, ssim -> SSIM, faceless_s -> Faceless (s) @param {string} name */
export function title(name) {
  const words = name.replaceAll("_", " ").replace(/ s$/, " (s)").replace(ACRONYMS, (word) => word.toUpperCase());
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** @param {number} share */
export const percent = (share) => `${Math.floor(share * 100)} %`;

/** @param {string} id */
export const shortId = (id) => `${id.slice(0, 12)}…`;
