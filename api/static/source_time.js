// Which moment of the input a moment of the result shows, after the plan of the render (length_mode).

// t, inputS, outputS: seconds. frameS: one frame of the input, whose last picture begins that much before its end.
// Gives { time, rate }: rate 1 plays beside the result, other rates stretch, 0 holds, -1 runs backward.
export function sourceTime(mode, t, { inputS, outputS, frameS }) {
  if (mode === "loop") return { time: t % inputS, rate: 1 };
  const lastS = inputS - frameS;
  if (mode === "remap") return { time: Math.min((t * inputS) / outputS, lastS), rate: inputS / outputS };
  if (mode === "bounce") return bounce(t, lastS);
  return t < lastS ? { time: t, rate: 1 } : { time: lastS, rate: 0 };
}

function bounce(t, span) {
  if (span <= 0) return { time: 0, rate: 0 };
  const phase = t % (2 * span);
  return phase <= span ? { time: phase, rate: 1 } : { time: 2 * span - phase, rate: -1 };
}
