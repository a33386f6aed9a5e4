"""The synthesized track: does it have what makes a mouth move, and what spares the ear?"""

from __future__ import annotations

import hashlib
import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cli.demo_input import RATE_HZ, synthesize_speech, write_demo_speech, write_portrait


@pytest.fixture(scope="module")
def samples() -> NDArray[np.float32]:
    return synthesize_speech()


def spectrum(part: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    power = np.abs(np.fft.rfft(part * np.hanning(len(part)))) ** 2
    return np.fft.rfftfreq(len(part), 1 / RATE_HZ), power


def loudness(samples: NDArray[np.float32], window_s: float = 0.02) -> NDArray[np.float64]:
    """RMS a window, relative to the loudest one."""
    size = round(window_s * RATE_HZ)
    rows = samples[: len(samples) // size * size].reshape(-1, size)
    rms = np.sqrt((rows.astype(np.float64) ** 2).mean(axis=1))
    return rms / rms.max()


def band_share(samples: NDArray[np.float32], at_s: float, low_hz: float, high_hz: float) -> float:
    """Share of the power of 60 ms that lies in a band."""
    start = round(at_s * RATE_HZ)
    hz, power = spectrum(samples[start : start + round(0.06 * RATE_HZ)])
    return float(power[(hz >= low_hz) & (hz < high_hz)].sum() / power.sum())


def test_the_file_is_what_it_says(tmp_path: Path, samples: NDArray[np.float32]) -> None:
    duration_s = write_demo_speech(tmp_path / "speech.wav")
    assert 5.0 < duration_s < 7.0
    with wave.open(str(tmp_path / "speech.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE_HZ)
        assert file.getnframes() == len(samples)


def test_it_is_deterministic(samples: NDArray[np.float32]) -> None:
    assert hashlib.sha256(samples).digest() == hashlib.sha256(synthesize_speech()).digest()


def test_it_does_not_clip(samples: NDArray[np.float32]) -> None:
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() == pytest.approx(0.6, abs=0.01)
    assert abs(samples.mean()) < 1e-4
    assert np.abs(np.diff(samples)).max() < 0.3, "no click: a full-scale step would be 1.2"
    assert np.abs(samples[:200]).max() < 1e-3, "it begins and ends in silence"
    assert np.abs(samples[-200:]).max() < 1e-3
    hz, power = spectrum(samples)
    assert power[hz > 4000].sum() / power.sum() < 0.1, "no harsh treble"


def test_it_has_the_rhythm_of_speech(samples: NDArray[np.float32]) -> None:
    level = loudness(samples)
    is_loud = level > 0.25
    syllables = np.flatnonzero(np.diff(is_loud.astype(int)) == 1)
    assert 10 <= len(syllables) <= 20, "about two to three openings of the mouth a second"
    assert 0.3 < is_loud.mean() < 0.8
    gaps = np.diff(np.flatnonzero(level > 0.05)) * 0.02
    assert (gaps > 0.2).sum() >= 3, "pauses between the phrases"


def test_vowels_and_hiss_have_different_spectra(samples: NDArray[np.float32]) -> None:
    """Times read off the score: a at 0.45 s, s at 1.49 s, i at 1.05 s."""
    assert band_share(samples, 0.45, 600, 1400) > 0.5, "a: first and second formant"
    assert band_share(samples, 1.05, 2000, 3300) > 10 * band_share(samples, 1.05, 1000, 1600), "i: a gap below F2"
    assert band_share(samples, 1.46, 4000, 12000) > 0.8, "s"


def test_the_pitch_is_a_voice_with_a_melody(samples: NDArray[np.float32]) -> None:
    pitches = []
    for start in range(0, len(samples) - 1200, 600):
        part = samples[start : start + 1200].astype(np.float64)
        if np.sqrt((part**2).mean()) < 0.08:
            continue
        echo = np.correlate(part, part, "full")[len(part) - 1 :]
        shortest, longest = RATE_HZ // 200, RATE_HZ // 80
        pitches.append(RATE_HZ / (shortest + int(echo[shortest:longest].argmax())))
    assert 95 < np.median(pitches) < 150
    assert np.std(pitches) > 5, "not a monotone"


def test_the_portrait_comes_from_the_wheel(tmp_path: Path) -> None:
    path = write_portrait(tmp_path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert path.stat().st_size > 100_000
