"""Mouth motion from the sound alone, for speech whose visemes are uncertain.

What is used of phonetics: the jaw follows the energy of the voiced part of speech; the first formant rises as the
mouth opens, so energy at 450-1100 Hz counts more than energy at the fundamental; hissing (s, sh, f) is loud with the
teeth nearly shut; the second formant is low when lips are rounded (o, u) and high when they are spread (i, e); p, b
and m cut everything above 450 Hz for 40 to 120 ms between vowels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retalking_core.audio.mel import mel_spectrogram
from retalking_core.types import Waveform

MEL_RATE_HZ = 80.0
DB_PER_UNIT = 12.5
# Below this level (mel dB) there is no speech at all: a normal recording peaks at -46, one 26 dB too quiet at -72, and
# white noise of -60 dB full scale is at -85.
SILENCE_DB = -78.0
# Rows of the 80-band Slaney mel scale, 55 to 7600 Hz.
VOICE, FIRST_FORMANT, SPEECH = slice(1, 11), slice(11, 29), slice(5, 62)
LOW_SECOND, HIGH_SECOND, HISS = slice(17, 31), slice(42, 56), slice(62, 80)

Track = NDArray[np.float64]


@dataclass(frozen=True)
class AcousticMotion:
    """What the sound suggests, f64 [T] each, `MEL_RATE_HZ` values a second.

    opening: 0..1. spread: -1 rounded .. 1 wide. closure: 0..1. loudness: 0 no speech .. 1 a loud syllable.
    """

    opening: Track
    spread: Track
    closure: Track
    loudness: Track


def analyze_sound(speech: Waveform) -> AcousticMotion:
    """All zero where there is no speech."""
    levels = (mel_spectrogram(speech).astype(np.float64) + 4) * DB_PER_UNIT - 100
    level = _band(levels, SPEECH)
    loud = float(np.percentile(level, 95))
    if loud < SILENCE_DB or levels.shape[1] < 4:
        return AcousticMotion(*np.zeros((4, levels.shape[1])))
    # Above the background noise, but never so high that the weaker vowels of pauseless speech count as noise.
    floor = float(np.clip(np.percentile(level, 5) + 6, loud - 42, loud - 16))
    active = _smooth(_ramp(level, floor, floor + 8), 2.0)
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
    loudness = _smooth(_ramp(level, max(floor, loud - 24), loud), 5.0)
    return AcousticMotion(opening * (1 - 0.9 * closure), _smooth(spread, 3.0), closure, loudness)


def _closures(vowel: Track, peak: float) -> Track:
    """0..1 where the F1 band dips for 25 to 150 ms between two louder stretches, as in p, b and m."""
    calm = _smooth(vowel, 1.0)
    before = np.maximum.reduce([np.roll(np.pad(calm, 12, mode="edge"), k)[12:-12] for k in range(3, 11)])
    after = np.maximum.reduce([np.roll(np.pad(calm, 12, mode="edge"), -k)[12:-12] for k in range(3, 11)])
    depth = np.minimum(before, after) - calm
    return _ramp(depth, 9, 20) * _ramp(np.minimum(before, after), peak - 20, peak - 10)


def _band(levels: Track, rows: slice) -> Track:
    """Mean power of some mel rows in dB, [T]."""
    return 10 * np.log10(np.mean(10 ** (levels[rows] / 10), axis=0) + 1e-12)


def _ramp(values: Track, low: float, high: float) -> Track:
    return np.clip((values - low) / (high - low), 0, 1)


def _smooth(values: Track, sigma: float) -> Track:
    """Gaussian of sigma mel frames (12.5 ms each), ends held."""
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(values, reach, mode="edge"), kernel / kernel.sum(), mode="valid")


def _attack_release(values: Track, attack_s: float = 0.03, release_s: float = 0.07) -> Track:
    """Open quickly, close slower, as jaws do; then 20 ms of smoothing: syllables (3-7 Hz) stay, flutter goes."""
    up, down = (1 - np.exp(-1 / (MEL_RATE_HZ * s)) for s in (attack_s, release_s))
    out, state = np.empty_like(values), 0.0
    # The one-pole filter lags by its time constant; reading 30 ms ahead takes that back.
    ahead = np.concatenate([values[2:], np.zeros(2)])
    for k, value in enumerate(ahead):
        state += (value - state) * (up if value > state else down)
        out[k] = state
    return _smooth(out, 1.6)
