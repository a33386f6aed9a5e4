// @ts-check
// Maps a time of the result to the time of the input that it shows, for each length_mode.

/**
 * rate: 1 plays along with the result, other rates stretch, 0 holds, -1 runs backward.
 * @param {string} mode
 * @param {number} t seconds of the result
 * @param {{ inputS: number, outputS: number, frameS: number }} clip frameS: length of one input frame, because the last
 *   picture of the input begins that much before its end
 * @returns {{ time: number, rate: number }}
 */
export function sourceTime(mode, t, { inputS, outputS, frameS }) {
  if (mode === "loop") return { time: t % inputS, rate: 1 };
  const lastS = inputS - frameS;
  if (mode === "remap") return { time: Math.min((t * inputS) / outputS, lastS), rate: inputS / outputS };
  if (mode === "bounce") return bounce(t, lastS);
  return t < lastS ? { time: t, rate: 1 } : { time: lastS, rate: 0 };
}

/** @param {number} t @param {number} span */
function bounce(t, span) {
  if (span <= 0) return { time: 0, rate: 0 };
  const phase = t % (2 * span);
  return phase <= span ? { time: phase, rate: 1 } : { time: 2 * span - phase, rate: -1 };
}
