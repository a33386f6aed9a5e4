"""Default input of the demo: a public-domain portrait, and synthesized speech.

The synthesizer is the cascade synthesizer of D. Klatt, "Software for a cascade/parallel formant synthesizer", JASA 67
(1980), reduced to what a demo needs: a glottal source through moving formant resonators, five vowels, the labial
closures b, m and p (lips must close visibly) and s. It has the rhythm, closures and melody of speech, without words.
Deterministic: the same samples on every machine.
"""

from __future__ import annotations

import shutil
import subprocess
import wave
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_SENTENCE = "Hello. This picture has never spoken before, but maybe you would not have guessed. Pretty simple, really!"


def write_portrait(folder: Path) -> Path:
    """The astronaut Eileen Collins (NASA, public domain), 512x512 PNG, from the data files of scikit-image.

    Read as a file: `skimage.data.astronaut()` gives the same pixels, but imports half of scikit-image first.
    """
    target = folder / "astronaut.png"
    with resources.as_file(resources.files("skimage.data") / "astronaut.png") as source:
        shutil.copyfile(source, target)
    return target


def write_speech(folder: Path) -> Path:
    """Real words if espeak-ng is installed, else the synthesizer of this module."""
    target = folder / "speech.wav"
    espeak = shutil.which("espeak-ng")
    if espeak is None or not _speak(espeak, target):
        write_demo_speech(target)
    return target


def _speak(espeak: str, target: Path) -> bool:
    try:
        done = subprocess.run(
            [espeak, "-v", "en-us", "-s", "150", "-w", str(target), _SENTENCE],
            check=False,
            capture_output=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and target.exists() and target.stat().st_size > 10_000


RATE_HZ = 24_000
_SEED = 20
_Track = NDArray[np.float64]

# First three formants in Hz (Peterson & Barney 1952, men); the fourth stays at 3500.
_VOWELS_HZ = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (290, 2250, 2950),
    "o": (500, 860, 2410),
    "u": (320, 870, 2240),
}
# Where a consonant moves the formants of its neighbors. Labials pull all of them down, s pulls F2 up.
_LOCUS_HZ = {"b": (250, 900, 2150), "p": (300, 950, 2200), "m": (260, 1000, 2150), "s": (320, 1750, 2600)}
_CONSONANT_S = {"b": 0.085, "p": 0.100, "m": 0.090, "s": 0.120}

# Syllables of one phrase each; the capital vowel carries the accent and is longer.
_PHRASES = [["mA", "pa", "bi"], ["sO", "me", "bu", "pA"], ["bI", "so", "pu"], ["mE", "ba", "si", "mO", "pa"]]
_LEAD_S, _PAUSE_S, _TAIL_S = 0.25, 0.26, 0.45


@dataclass(frozen=True)
class _Key:
    """State of the voice at one time. Amplitudes 0..1."""

    time_s: float
    formants_hz: tuple[float, float, float]
    voiced: float = 0.0
    bar: float = 0.0
    """Voice through closed lips."""
    breath: float = 0.0
    hiss: float = 0.0
    burst: float = 0.0


def write_demo_speech(path: Path) -> float:
    """Write the track as 16-bit mono WAV at 24 kHz; returns its duration in seconds."""
    samples = synthesize_speech()
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE_HZ)
        out.writeframes((samples * 32767).astype("<i2").tobytes())
    return len(samples) / RATE_HZ


def synthesize_speech() -> NDArray[np.float32]:
    """The whole track: f32 [n], mono, -1..1 (peak 0.6), at RATE_HZ."""
    keys, melody = _score()
    time_s = np.arange(round(keys[-1].time_s * RATE_HZ)) / RATE_HZ
    noise = np.random.default_rng(_SEED).standard_normal(len(time_s))
    amplitude = {
        name: _glide(time_s, keys, [getattr(key, name) for key in keys], 0.006)
        for name in ("voiced", "bar", "breath", "hiss", "burst")
    }
    formants = [_glide(time_s, keys, [key.formants_hz[n] for key in keys], 0.020) for n in range(3)]
    pulses, opening = _glottis(_pitch(time_s, melody))

    mouth = amplitude["voiced"] * (pulses + 0.03 * opening * noise) + 0.06 * amplitude["breath"] * noise
    centers_hz: list[_Track | float] = [*formants, 3500.0, 4500.0]
    for center_hz, width_hz in zip(centers_hz, (80.0, 100.0, 140.0, 250.0, 300.0), strict=True):
        mouth = _resonate(mouth, center_hz, width_hz)
    lips_shut = _resonate(amplitude["bar"] * pulses, 220.0, 120.0)
    hiss = _resonate(_resonate(amplitude["hiss"] * _rise(noise), 5400.0, 1400.0), 7600.0, 2200.0)
    burst = _resonate(amplitude["burst"] * noise, 1300.0, 1200.0)
    return _finish(_even_out(mouth) + 0.16 * _level(lips_shut) + 0.14 * _level(hiss) + 0.16 * _level(burst))


def _score() -> tuple[list[_Key], list[tuple[float, float]]]:
    """Keys in time order, and the melody as (time s, pitch Hz): falls in each phrase, with a peak at each accent."""
    keys = [_Key(0.0, _VOWELS_HZ["a"]), _Key(_LEAD_S, _VOWELS_HZ["a"])]
    melody = [(0.0, 118.0)]
    for number, phrase in enumerate(_PHRASES):
        top_hz = 134.0 - 4.0 * number
        for place, syllable in enumerate(phrase):
            start_s, is_last = keys[-1].time_s, place == len(phrase) - 1
            keys += _syllable_keys(start_s, syllable[0], syllable[1], is_last)
            accent_hz = 20.0 if syllable[1].isupper() else 0.0
            center_s = (start_s + _CONSONANT_S[syllable[0]] + keys[-1].time_s) / 2
            melody.append((center_s, top_hz - 26.0 * place / (len(phrase) - 1) + accent_hz))
        rest = keys[-1].formants_hz
        keys += [_Key(keys[-1].time_s + 0.03, rest), _Key(keys[-1].time_s + _PAUSE_S, rest)]
    return [*keys, _Key(keys[-1].time_s + _TAIL_S - _PAUSE_S, keys[-1].formants_hz)], melody


def _syllable_keys(start_s: float, consonant: str, vowel: str, is_last: bool) -> list[_Key]:
    """Consonant, glide, vowel. The last vowel of a phrase is longer and fades."""
    shape, locus = _VOWELS_HZ[vowel.lower()], _LOCUS_HZ[consonant]
    length_s = 0.150 + 0.050 * vowel.isupper() + 0.090 * is_last
    loud = 1.0 if vowel.isupper() else 0.8
    release_s = start_s + _CONSONANT_S[consonant]
    keys = _consonant_keys(consonant, start_s + 0.015, release_s)
    voice_s = release_s + (0.030 if consonant == "p" else 0.008)  # p is aspirated before the voice starts
    return [
        *keys,
        _Key(voice_s, _between(locus, shape, 0.35), voiced=0.5 * loud),
        _Key(voice_s + 0.040, shape, voiced=loud),
        _Key(voice_s + 0.6 * length_s, shape, voiced=loud),
        _Key(voice_s + length_s, shape, voiced=(0.25 if is_last else 0.55) * loud),
    ]


def _consonant_keys(consonant: str, start_s: float, release_s: float) -> list[_Key]:
    locus = _LOCUS_HZ[consonant]
    if consonant == "s":
        middle_s = (start_s + release_s) / 2
        return [_Key(start_s, locus), _Key(middle_s, locus, hiss=1.0), _Key(release_s, locus, hiss=0.2)]
    if consonant == "p":
        return [
            _Key(start_s, locus),
            _Key(release_s - 0.004, locus),
            _Key(release_s, locus, burst=1.0, breath=0.6),
            _Key(release_s + 0.012, locus, breath=0.8),
        ]
    bar = 1.0 if consonant == "m" else 0.35
    return [_Key(start_s, locus, bar=bar), _Key(release_s - 0.006, locus, bar=bar), _Key(release_s, locus, bar=0.2)]


def _between(
    one: tuple[float, float, float], other: tuple[float, float, float], share: float
) -> tuple[float, float, float]:
    first, second, third = (a + share * (b - a) for a, b in zip(one, other, strict=True))
    return first, second, third


def _glide(time_s: _Track, keys: list[_Key], values: list[float], smooth_s: float) -> _Track:
    """Straight lines between the keys, smoothed by a Hann window (a step would be heard as a click)."""
    line = np.interp(time_s, [key.time_s for key in keys], values)
    window = np.hanning(2 * round(smooth_s * RATE_HZ / 2) + 1)
    padded = np.pad(line, len(window) // 2, mode="edge")
    return np.convolve(padded, window / window.sum(), mode="valid")


def _pitch(time_s: _Track, melody: list[tuple[float, float]]) -> _Track:
    """Smooth melody with Klatt's slow quasi-random flutter, so that the voice sounds less synthetic."""
    line = np.interp(time_s, [at_s for at_s, _ in melody], [hz for _, hz in melody])
    window = np.hanning(round(0.12 * RATE_HZ) | 1)
    smooth = np.convolve(np.pad(line, len(window) // 2, mode="edge"), window / window.sum(), mode="valid")
    flutter = sum(np.sin(2 * np.pi * rate * time_s) for rate in (12.7, 7.1, 4.7))
    return smooth * (1 + 0.004 * flutter)


def _glottis(pitch_hz: _Track) -> tuple[_Track, _Track]:
    """Derivative of the Rosenberg glottal flow (opening 40 %, closing 16 % of the period), and the flow itself."""
    phase = np.cumsum(pitch_hz / RATE_HZ) % 1.0
    rise, fall = 0.40, 0.16
    up, down = phase < rise, (phase >= rise) & (phase < rise + fall)
    flow = np.where(up, 0.5 - 0.5 * np.cos(np.pi * phase / rise), 0.0)
    flow = np.where(down, np.cos(np.pi * (phase - rise) / (2 * fall)), flow)
    return np.diff(flow, prepend=0.0) * 20.0, flow


def _resonate(signal: _Track, center_hz: _Track | float, width_hz: float) -> _Track:
    """Klatt's two-pole resonator with a moving center: y[n] = A x[n] + B y[n-1] + C y[n-2]."""
    radius = np.exp(-np.pi * width_hz / RATE_HZ)
    feedback = 2 * radius * np.cos(2 * np.pi * np.broadcast_to(center_hz, signal.shape) / RATE_HZ)
    gain = 1 - feedback + radius * radius
    last, before, square, out = 0.0, 0.0, float(radius * radius), []
    for x, b in zip((gain * signal).tolist(), feedback.tolist(), strict=True):
        last, before = x + b * last - square * before, last
        out.append(last)
    return np.array(out)


def _rise(noise: _Track) -> _Track:
    """First difference: removes the low frequencies of the hiss, as the narrow gap of an s does."""
    return np.diff(noise, prepend=0.0)


def _level(signal: _Track) -> _Track:
    """Scaled so that its loudest 10 ms have an RMS of 1: the parts can then be mixed by plain factors."""
    window = round(0.010 * RATE_HZ)
    power = np.convolve(signal**2, np.full(window, 1 / window), mode="same")
    scaled: _Track = signal / np.sqrt(power.max())
    return scaled


def _even_out(mouth: _Track) -> _Track:
    """Reduce the loudness differences of vowels: the plain cascade makes a 14 dB louder than u, people about 5 dB."""
    window = np.hanning(round(0.080 * RATE_HZ) | 1)
    loudness = np.sqrt(np.convolve(_level(mouth) ** 2, window / window.sum(), mode="same"))
    return _level(mouth / np.maximum(loudness, 0.05) ** 0.5)


def _finish(signal: _Track) -> NDArray[np.float32]:
    """Remove the mean; peak 0.6 of full scale."""
    centered = signal - signal.mean()
    scaled: NDArray[np.float32] = (0.6 * centered / np.abs(centered).max()).astype(np.float32)
    return scaled
