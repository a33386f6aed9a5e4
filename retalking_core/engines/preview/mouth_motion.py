"""From speech to the motion of a mouth, without a network.

What is used of phonetics: the jaw follows the energy of the voiced part of speech; the first formant rises as the
mouth opens, so energy at 450-1100 Hz counts more than energy at the fundamental; hissing (s, sh, f) is loud with the
teeth nearly shut; the second formant is low when lips are rounded (o, u) and high when they are spread (i, e); p, b
and m cut everything above 450 Hz for 40 to 120 ms between vowels. Lips move ahead of the sound by some tens of
milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retalking_core.audio.mel import mel_spectrogram
from retalking_core.types import Timeline, Waveform

MEL_RATE_HZ = 80.0
DB_PER_UNIT = 12.5
LEAD_S = 0.02
# Below this level (mel dB) there is no speech at all: a normal recording peaks at -46, one 26 dB too quiet at -72, and
# white noise of -60 dB full scale is at -85.
SILENCE_DB = -78.0
# Rows of the 80-band Slaney mel scale, 55 to 7600 Hz.
VOICE, FIRST_FORMANT, SPEECH = slice(1, 11), slice(11, 29), slice(5, 62)
LOW_SECOND, HIGH_SECOND, HISS = slice(17, 31), slice(42, 56), slice(62, 80)


@dataclass(frozen=True)
class MouthMotion:
    """What the mouth should do, one value per output frame.

    opening: f32 [M], 0 closed .. 1 as open as loud speech gets. spread: f32 [M], -1 rounded .. 1 wide. closure: f32
    [M], 0 .. 1 lips pressed together.
    """

    opening: NDArray[np.float32]
    spread: NDArray[np.float32]
    closure: NDArray[np.float32]

    def __post_init__(self) -> None:
        if not self.opening.shape == self.spread.shape == self.closure.shape or self.opening.ndim != 1:
            raise ValueError("opening, spread and closure must be vectors of one length")


def plan_mouth_motion(speech: Waveform, timeline: Timeline) -> MouthMotion:
    """The motion for every frame of a timeline; closed wherever there is no speech."""
    levels = (mel_spectrogram(speech).astype(np.float64) + 4) * DB_PER_UNIT - 100
    planned = _analyze(levels)
    times_s = (np.arange(len(timeline.source_index)) + 0.5) / float(timeline.fps) + LEAD_S
    width_s = 1 / float(timeline.fps)
    opening, spread, closure = (_sample(track, times_s, width_s) for track in planned)
    return MouthMotion(np.clip(opening, 0, 1), np.clip(spread, -1, 1), np.clip(closure, 0, 1))


def _analyze(levels: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mel levels in dB [80, T] -> opening, spread, closure [T], at 80 values a second."""
    speech = _band(levels, SPEECH)
    loud = float(np.percentile(speech, 95))
    if loud < SILENCE_DB or levels.shape[1] < 4:
        still = np.zeros(levels.shape[1])
        return still, still.copy(), still.copy()
    # Above the background noise, but never so high that the weaker vowels of pauseless speech count as noise.
    floor = float(np.clip(np.percentile(speech, 5) + 6, loud - 42, loud - 16))
    active = _smooth(_ramp(speech, floor, floor + 8), 2.0)
    vowel = _band(levels, FIRST_FORMANT)
    hiss = _ramp(_band(levels, HISS) - np.maximum(vowel, _band(levels, VOICE)), -4, 8)
    peak = float(np.percentile(vowel, 94))
    voiced = vowel > peak - 22
    # 26 dB from closed to open: tried on real speech so that its median syllable opens the mouth by a third.
    drive = _ramp(vowel, peak - 26, peak + 2) ** 1.25 * (1 - 0.75 * hiss)
    closure = _closures(vowel, peak) * active
    opening = _attack_release((drive + 0.10 * active) * active)
    closure = _smooth(closure, 1.2)
    balance = _band(levels, HIGH_SECOND) - _band(levels, LOW_SECOND)
    low, high = np.percentile(balance[voiced], (15, 85)) if voiced.any() else (0.0, 0.0)
    middle, wide = (low + high) / 2, max((high - low) / 2, 6.0)
    spread = np.tanh((balance - middle) / wide) * np.where(hiss > 0.5, 0.4, 1.0) * active * (0.6 + 0.4 * drive)
    # After the smoothing: a closure is short, and must not be smoothed away.
    return opening * (1 - 0.9 * closure), _smooth(spread, 3.0), closure


def _closures(vowel: NDArray[np.float64], peak: float) -> NDArray[np.float64]:
    """0..1 where the F1 band dips for 25 to 150 ms between two louder stretches, as in p, b and m."""
    calm = _smooth(vowel, 1.0)
    before = np.maximum.reduce([np.roll(np.pad(calm, 12, mode="edge"), k)[12:-12] for k in range(3, 11)])
    after = np.maximum.reduce([np.roll(np.pad(calm, 12, mode="edge"), -k)[12:-12] for k in range(3, 11)])
    depth = np.minimum(before, after) - calm
    return _ramp(depth, 9, 20) * _ramp(np.minimum(before, after), peak - 20, peak - 10)


def _band(levels: NDArray[np.float64], rows: slice) -> NDArray[np.float64]:
    """Mean power of some mel rows in dB, [T]."""
    return 10 * np.log10(np.mean(10 ** (levels[rows] / 10), axis=0) + 1e-12)


def _ramp(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    return np.clip((values - low) / (high - low), 0, 1)


def _smooth(values: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Gaussian of sigma mel frames (12.5 ms each), ends held."""
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(values, reach, mode="edge"), kernel / kernel.sum(), mode="valid")


def _attack_release(
    values: NDArray[np.float64], attack_s: float = 0.03, release_s: float = 0.07
) -> NDArray[np.float64]:
    """Open quickly, close slower, as jaws do; then 20 ms of smoothing: syllables (3-7 Hz) stay, flutter goes."""
    up, down = (1 - np.exp(-1 / (MEL_RATE_HZ * s)) for s in (attack_s, release_s))
    out, state = np.empty_like(values), 0.0
    # The one-pole filter lags by its time constant; reading 30 ms ahead takes that back.
    ahead = np.concatenate([values[2:], np.zeros(2)])
    for k, value in enumerate(ahead):
        state += (value - state) * (up if value > state else down)
        out[k] = state
    return _smooth(out, 1.6)


def _sample(track: NDArray[np.float64], times_s: NDArray[Any], width_s: float) -> NDArray[np.float32]:
    """Mean of a track over each output frame's own time, so that slow frame rates do not alias."""
    taps = np.linspace(-0.5, 0.5, 5) * width_s
    positions = (times_s[:, None] + taps) * MEL_RATE_HZ
    grid = np.arange(len(track))
    return np.interp(positions, grid, track, right=0.0).mean(axis=1).astype(np.float32)
