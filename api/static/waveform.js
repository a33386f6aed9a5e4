// @ts-check
// The waveform of a sound file, decoded by the browser.

const PEAKS_PER_S = 50;
// Decoding holds all samples in memory.
const MAX_BYTES = 64 << 20;

/**
 * null: a file that this browser cannot decode, or a large one.
 * @param {File} file
 * @returns {Promise<{ durationS: number, peaks: Float32Array } | null>}
 */
export async function readWaveform(file) {
  if (file.size > MAX_BYTES) return null;
  try {
    const sound = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(await file.arrayBuffer());
    const samples = sound.getChannelData(0);
    const step = sound.sampleRate / PEAKS_PER_S;
    const peaks = new Float32Array(Math.ceil(samples.length / step));
    for (let at = 0; at < samples.length; at += 1) {
      const place = Math.floor(at / step);
      peaks[place] = Math.max(peaks[place], Math.abs(samples[at]));
    }
    return { durationS: sound.duration, peaks };
  } catch {
    return null;
  }
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {Awaited<ReturnType<typeof readWaveform>>} waveform
 * @param {number} fromS @param {number} lengthS
 */
export function drawWaveform(canvas, waveform, fromS, lengthS) {
  const [width, height] = [canvas.width, canvas.height] = [canvas.clientWidth || 1, canvas.clientHeight || 1];
  const pen = canvas.getContext("2d");
  if (!pen || !waveform) return;
  pen.fillStyle = getComputedStyle(canvas).color;
  for (let x = 0; x < width; x += 1) {
    const peak = waveform.peaks[Math.floor((fromS + (x / width) * lengthS) * PEAKS_PER_S)] ?? 0;
    pen.fillRect(x, (height * (1 - peak)) / 2, 1, Math.max(1, height * peak));
  }
}
