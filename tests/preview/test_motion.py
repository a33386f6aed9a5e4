"""Speech to mouth motion where no viseme is sure, on sounds whose mouth shape is known."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from retalking_core.engines.preview.mouth_motion import MouthMotion, plan_mouth_motion
from retalking_core.types import Timeline, Waveform
from tests.preview.speech import make_sound, recognized, talk


def plan(sound: Waveform, fps: float = 25.0) -> MouthMotion:
    rate = Fraction(fps).limit_denominator(1001)
    count = round(sound.duration_s * rate)
    guessed = recognized([("u", sound.duration_s)], 0.0)
    return plan_mouth_motion(sound, Timeline(np.arange(count), rate), guessed)


def during(track: np.ndarray, start_s: float, stop_s: float, fps: float = 25.0) -> np.ndarray:
    return track[round(start_s * fps) : round(stop_s * fps)]


def test_silence_keeps_the_mouth_closed() -> None:
    motion = plan(Waveform(np.zeros(32_000, np.float32)))
    assert (motion.opening == 0).all()
    assert (motion.closure == 0).all()
    hum = np.random.default_rng(0).normal(0, 2e-5, 32_000).astype(np.float32)
    assert (plan(Waveform(hum)).opening == 0).all()


@pytest.mark.parametrize("fps", [15.0, 22.131, 25.0, 60.0])
def test_vowels_open_and_pauses_close(fps: float) -> None:
    motion = plan(make_sound([(" ", 0.4), ("a", 0.4), (" ", 0.5), ("a", 0.4), (" ", 0.4)]), fps)
    assert during(motion.opening, 0.5, 0.7, fps).min() > 0.6
    assert during(motion.opening, 1.05, 1.2, fps).max() < 0.05
    assert during(motion.opening, 1.4, 1.6, fps).min() > 0.6
    assert motion.opening[-1] < 0.02
    assert len(motion.opening) == len(motion.spread) == len(motion.closure)


def test_open_vowels_open_more_than_close_ones_and_hiss() -> None:
    score = [("a", 0.4), (" ", 0.3), ("i", 0.4), (" ", 0.3), ("s", 0.4), (" ", 0.3)]
    motion = plan(make_sound(score))
    wide, narrow, hiss = (during(motion.opening, t, t + 0.2).mean() for t in (0.1, 0.8, 1.5))
    assert wide > narrow + 0.2
    assert wide > hiss + 0.4
    assert narrow > 0.02


def test_lips_spread_and_round() -> None:
    score = [("i", 0.4), ("u", 0.4), ("a", 0.4), (" ", 0.3)] * 2
    motion = plan(make_sound(score))
    assert during(motion.spread, 0.1, 0.3).mean() > 0.15
    assert during(motion.spread, 0.5, 0.7).mean() < -0.15
    assert np.abs(motion.spread).max() <= 1


def test_a_short_nasal_between_vowels_shuts_the_lips() -> None:
    motion = plan(make_sound([("a", 0.3), ("m", 0.08), ("a", 0.3), (" ", 0.2)]), 50.0)
    dip = during(motion.opening, 0.28, 0.40, 50.0).min()
    assert dip < 0.5 * during(motion.opening, 0.12, 0.22, 50.0).mean()
    assert during(motion.closure, 0.28, 0.42, 50.0).max() > 0.4
    assert during(motion.closure, 0.1, 0.2, 50.0).max() < 0.1


def test_loudness_of_the_recording_does_not_matter() -> None:
    sound = talk(3.0)
    quiet = Waveform(sound.samples * 0.08)
    assert np.abs(plan(sound).opening - plan(quiet).opening).max() < 0.12


def test_syllables_show_and_nothing_flutters() -> None:
    """Four syllables a second are the strongest rhythm; beyond 9 Hz there is next to nothing."""
    sound = make_sound([("m", 0.1), ("a", 0.15)] * 16)
    opening = plan(sound, 50.0).opening
    power = np.abs(np.fft.rfft(opening - opening.mean())) ** 2
    rhythm_hz = np.fft.rfftfreq(len(opening), 1 / 50)
    assert abs(rhythm_hz[power.argmax()] - 4.0) < 0.4
    assert power[rhythm_hz > 9].sum() < 0.04 * power.sum()
    assert opening[10:-10].max() - opening[10:-10].min() > 0.4


def test_mouth_is_neither_late_nor_early() -> None:
    """A burst of one vowel: the middle of the opening is within 40 ms of the middle of the sound."""
    opening = plan(make_sound([(" ", 0.6), ("a", 0.3), (" ", 0.6)]), 50.0).opening
    middle_s = float((opening * (np.arange(len(opening)) + 0.5)).sum() / opening.sum() / 50)
    assert abs(middle_s - 0.75) < 0.04


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        MouthMotion(*(np.zeros(count, np.float32) for count in (3, 4, 3, 3, 3, 3)))
