"""Speech-like sound from a source and three formants, with known openings, pauses, lip closures and visemes."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retalking_core.audio.visemes import VISEME_RATE_HZ, Viseme, VisemeTrack
from retalking_core.types import Waveform

RATE_HZ = 16_000
# First three formants (Hz) of an adult voice; gain of the whole sound.
# l has no sound of its own here: it sounds as a dark vowel.
FORMANTS = {
    "l": (360, 1100, 2600),
    "a": (780, 1250, 2600),
    "i": (300, 2300, 3000),
    "u": (320, 800, 2300),
    "m": (240, 900, 2100),
}
GAINS = {"l": 0.5, "a": 1.0, "i": 0.45, "u": 0.5, "m": 0.18, "s": 0.25, "f": 0.1, " ": 0.0}
VISEMES = {
    "l": Viseme.DENTAL,
    "a": Viseme.OPEN,
    "i": Viseme.SPREAD,
    "u": Viseme.ROUNDED,
    "m": Viseme.BILABIAL,
    "s": Viseme.DENTAL,
    "f": Viseme.LABIODENTAL,
    " ": Viseme.SILENCE,
}


def make_sound(score: Sequence[tuple[str, float]], seed: int = 3) -> Waveform:
    """Sounds (a, i, u, l, m, s, f or space for silence) with their lengths in seconds."""
    pieces = [_one_sound(sound, seconds, seed + k) for k, (sound, seconds) in enumerate(score)]
    samples = np.concatenate(pieces)
    return Waveform((0.5 * samples / max(float(np.abs(samples).max()), 1e-6)).astype(np.float32))


def recognized(score: Sequence[tuple[str, float]], confidence: float = 1.0) -> VisemeTrack:
    """The visemes of `make_sound(score)`, to the nearest 10 ms."""
    ends = np.round(np.cumsum([length for _, length in score]) * VISEME_RATE_HZ).astype(int)
    posteriors = np.full((ends[-1], len(Viseme)), 0.01, np.float32)
    for (sound, _), start, end in zip(score, [0, *ends], ends, strict=False):
        posteriors[start:end, VISEMES[sound]] = 0.92
    tongue = np.zeros(len(posteriors), np.float32)
    for (sound, _), start, end in zip(score, [0, *ends], ends, strict=False):
        tongue[start:end] = 0.9 if sound == "l" else 0.0
    return VisemeTrack(posteriors, np.full(len(posteriors), confidence, np.float32), tongue)


def talk(seconds: float) -> Waveform:
    """Syllables at about four a second with a pause of 0.4 s, ending in half a second of silence."""
    score: list[tuple[str, float]] = []
    vowels = "aiuaauia"
    while sum(length for _, length in score) < seconds - 0.5:
        k = len(score) // 2
        score += [("m" if k % 2 else " ", 0.09), (vowels[k % len(vowels)], 0.17)]
        if k % 6 == 5:
            score += [(" ", 0.4), (" ", 0.0)]
    sound = make_sound([*score, (" ", 1.0)])
    return Waveform(sound.samples[: int(seconds * RATE_HZ)])


def write_wav(path: Path, sound: Waveform) -> Path:
    """PCM 16 bit, mono."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sound.rate_hz)
        file.writeframes((np.clip(sound.samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def _one_sound(sound: str, seconds: float, seed: int) -> NDArray[np.float64]:
    count = round(seconds * RATE_HZ)
    if count == 0 or sound == " ":
        return np.zeros(count)
    rng = np.random.default_rng(seed)
    spectrum_hz = np.fft.rfftfreq(count, 1 / RATE_HZ)
    if sound in "sf":
        source = np.fft.rfft(rng.normal(0, 1, count))
        shape = np.exp(-(((spectrum_hz - 5800) / (1400 if sound == "s" else 4000)) ** 2))
    else:
        pulses = np.zeros(count)
        pulses[:: RATE_HZ // 120] = 1
        source = np.fft.rfft(pulses) / (1 + spectrum_hz / 400)
        shape = sum((1 + ((spectrum_hz - f) / 90) ** 2) ** -0.75 for f in FORMANTS[sound])
    samples = np.fft.irfft(source * shape, count)
    edge = min(240, count // 2)
    ramp = np.ones(count)
    ramp[:edge] = np.linspace(0, 1, edge)
    ramp[count - edge :] = np.linspace(1, 0, edge)
    return GAINS[sound] * ramp * samples / np.sqrt((samples**2).mean())
