"""Visemes to mouth motion: closures on time, coarticulation, lips apart from the jaw, doubt."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from retalking_core.engines.preview.mouth_motion import (
    CLOSING_SPEED,
    OPENING_SPEED,
    TUCK_OPENING,
    MouthMotion,
    plan_mouth_motion,
)
from retalking_core.types import Timeline, Waveform
from tests.preview.speech import make_sound, recognized

RATES = [12.0, 22.131, 24.0, 25.0, 30.0, 60.0]
Score = Sequence[tuple[str, float]]


def plan(score: Score, fps: float = 100.0, confidence: float = 1.0, sound: Waveform | None = None) -> MouthMotion:
    speech, rate = sound or make_sound(score), Fraction(fps).limit_denominator(1001)
    timeline = Timeline(np.arange(round(speech.duration_s * rate)), rate)
    return plan_mouth_motion(speech, timeline, recognized(score, confidence))


def at(track: np.ndarray, moment_s: float, fps: float = 100.0) -> float:
    return float(track[int(moment_s * fps)])


@pytest.mark.parametrize("fps", RATES)
def test_every_bilabial_is_shut_in_some_frame_at_any_frame_rate(fps: float) -> None:
    """Holds of 50 ms between open vowels, none of them at the same place between two frames."""
    score = [(" ", 0.2), *[("a", 0.213), ("m", 0.05)] * 12, ("a", 0.2)]
    motion = plan(score, fps)
    centers_s = (np.arange(len(motion.opening)) + 0.5) / fps
    for k in range(12):
        start_s = 0.2 + 0.263 * k + 0.213
        near = np.abs(centers_s - start_s - 0.025) <= 0.025 + max(0.02, 0.5 / fps)
        assert motion.opening[near].min() == 0, k
        assert motion.closure[near].max() == 1, k
        inside = (centers_s > start_s + 0.01) & (centers_s < start_s + 0.04)
        assert (motion.opening[inside] == 0).all(), k


def test_lips_leave_for_a_bilabial_ahead_of_it() -> None:
    motion = plan([("a", 0.5), ("m", 0.08), ("a", 0.5)])
    vowel = at(motion.opening, 0.35)
    assert at(motion.opening, 0.42) > 0.95 * vowel
    assert 0.3 * vowel < at(motion.opening, 0.465) < 0.8 * vowel
    assert motion.opening[50:58].max() == 0
    assert at(motion.opening, 0.68) > 0.9 * vowel


def test_lips_touch_longer_than_they_press() -> None:
    """A closure that reached into the next consonant would be a wrong one there."""
    motion = plan([("a", 0.3), ("m", 0.04), ("s", 0.1), ("a", 0.3)])
    assert motion.closure[31:33].min() > 0.9
    assert max(motion.closure[:30].max(), motion.closure[35:].max()) < 0.3
    assert motion.opening[29:35].max() == 0


def test_a_short_open_vowel_between_bilabials_opens() -> None:
    motion = plan([("a", 0.3), ("m", 0.08), ("a", 0.07), ("m", 0.08), ("a", 0.3)])
    assert motion.opening[38:45].max() > 0.4 * at(motion.opening, 0.15)


@pytest.mark.parametrize(("fps", "least"), [(24.0, 0.5), (25.0, 0.5), (30.0, 0.35), (60.0, 0.3)])
@pytest.mark.parametrize("consonant", ["m", "f"])
def test_every_short_open_vowel_between_closures_is_seen(consonant: str, fps: float, least: float) -> None:
    """Vowels of 60 ms, each at another place between two frames. The more frames there are, the more the speed of lips
    counts. No closure is given up for it."""
    score = [("a", 0.3), *[(consonant, 0.071), ("a", 0.06)] * 12, (consonant, 0.071), ("a", 0.3)]
    motion = plan(score, fps)
    centers_s = (np.arange(len(motion.opening)) + 0.5) / fps
    hold = motion.closure if consonant == "m" else motion.tuck
    for k in range(12):
        vowel_s, hold_s = 0.401 + 0.131 * k, 0.3355 + 0.131 * k
        assert motion.opening[np.abs(centers_s - vowel_s) <= 0.05].max() >= least * at(motion.opening, 0.15, fps), k
        assert hold[np.abs(centers_s - hold_s) <= 0.0355].max() > 0.5, k


def test_lips_shut_over_a_lowered_jaw() -> None:
    motion = plan([("a", 0.3), ("m", 0.07), ("a", 0.3)])
    assert motion.opening[31:36].max() == 0
    assert 0.3 < motion.jaw[31:36].min() < 0.8 * motion.jaw.max()
    hiss = plan([("a", 0.3), ("s", 0.15), ("a", 0.3)])
    assert hiss.jaw[36:40].max() < motion.jaw[31:36].min(), "sibilants need the jaw up"


def test_f_brings_the_lower_lip_to_the_teeth() -> None:
    motion = plan([("a", 0.3), ("f", 0.09), ("a", 0.3), ("s", 0.1), ("a", 0.2)], 25.0)
    hold = slice(8, 10)
    assert motion.tuck[hold].max() == 1
    assert motion.opening[hold].min() == pytest.approx(TUCK_OPENING, abs=0.02)
    assert motion.closure.max() < 0.2
    assert motion.tuck[16:].max() < 0.1, "no other consonant does"


def test_the_tongue_is_seen_at_l_for_as_long_as_people_show_it() -> None:
    motion = plan([("a", 0.4), ("l", 0.06), ("a", 0.4), ("s", 0.1), ("i", 0.3), (" ", 0.3)])
    assert motion.tongue[40:46].min() > 0.9
    seen_s = (motion.tongue > 0.5).sum() / 100
    assert 0.06 <= seen_s <= 0.12
    assert 0.1 < at(motion.tongue, 0.38) < 0.9, "it leaves ahead of the sound"
    assert max(motion.tongue[:34].max(), motion.tongue[53:].max()) == 0, "vowels, hiss and silence"
    assert np.abs(np.diff(motion.tongue)).max() <= 0.35


@pytest.mark.parametrize("fps", RATES)
def test_every_l_shows_the_tongue_in_some_frame_at_any_frame_rate(fps: float) -> None:
    motion = plan([(" ", 0.2), *[("a", 0.213), ("l", 0.05)] * 12, ("a", 0.2)], fps)
    centers_s = (np.arange(len(motion.tongue)) + 0.5) / fps
    for k in range(12):
        near = np.abs(centers_s - 0.2 - 0.263 * k - 0.238) <= 0.025 + 0.5 / fps
        assert motion.tongue[near].max() > 0.9, k
    assert motion.closure.max() < 0.1


def test_lips_that_meet_hide_the_tongue() -> None:
    motion = plan([("a", 0.3), ("l", 0.06), ("m", 0.08), ("l", 0.06), ("a", 0.3), ("f", 0.09), ("l", 0.06), ("a", 0.3)])
    for hidden in (slice(36, 44), slice(81, 89)):
        assert motion.tongue[hidden].max() == 0
    assert motion.opening[36:44].max() == 0
    assert motion.tuck[81:89].min() == 1
    assert motion.tongue[44:50].max() > 0.5


def test_a_frame_shows_a_closure_or_a_short_vowel_rather_than_the_tongue() -> None:
    """Beside l as elsewhere, what the lips do counts first."""
    with_l = plan([("a", 0.3), *[("m", 0.05), ("l", 0.05), ("a", 0.06)] * 8, ("a", 0.2)], 25.0)
    centers_s = (np.arange(len(with_l.opening)) + 0.5) / 25
    for k in range(8):
        near = np.abs(centers_s - 0.3 - 0.16 * k - 0.025) <= 0.045
        assert with_l.opening[near].min() == 0, k


def test_rounding_reaches_ahead() -> None:
    motion = plan([("a", 0.3), ("s", 0.3), ("u", 0.2), ("i", 0.3)])
    assert at(motion.spread, 0.65) < -0.8
    assert at(motion.spread, 0.6 - 0.1) < -0.3
    assert at(motion.spread, 0.6 - 0.25) > -0.1
    assert at(motion.spread, 0.95) > 0.5


def test_lips_are_nowhere_faster_than_lips() -> None:
    motion = plan([("a", 0.11), ("m", 0.05)] * 10, 200.0)
    steps = np.diff(motion.opening) * 200
    assert steps.max() <= OPENING_SPEED * 1.001
    assert steps.min() >= -CLOSING_SPEED * 1.001
    assert motion.opening.max() > 0.4


def test_open_vowels_open_and_close_vowels_do_not() -> None:
    motion = plan([("a", 0.3), ("s", 0.1), ("i", 0.3), ("s", 0.1), ("u", 0.3)], 25.0)
    wide, spread, pursed = (at(motion.opening, t, 25.0) for t in (0.15, 0.55, 0.95))
    assert wide > 0.8
    assert 0.2 < spread < 0.5
    assert 0.15 < pursed < 0.4


def test_loud_syllables_open_further() -> None:
    score = [("a", 0.4), (" ", 0.4), ("a", 0.4), (" ", 0.4)]
    sound = make_sound(score)
    fading = np.where(np.arange(len(sound.samples)) < len(sound.samples) / 2, 1.0, 0.15)
    motion = plan(score, sound=Waveform((sound.samples * fading).astype(np.float32)))
    assert at(motion.opening, 0.2) > at(motion.opening, 1.0) + 0.1 > 0.5


@pytest.mark.parametrize("sound", ["aiuamauia", "sssssssss"])
def test_music_without_speech_leaves_the_mouth_shut(sound: str) -> None:
    """The recognizer says silence, the loudness does not."""
    music = make_sound([(each, 0.2) for each in sound])
    motion = plan([(" ", 0.2 * len(sound))], sound=music)
    assert motion.opening.max() < 0.02
    assert np.abs(motion.spread).max() < 0.05
    assert motion.tuck.max() == motion.closure.max() == motion.tongue.max() == 0


def test_no_sound_keeps_the_mouth_closed_whatever_was_recognized() -> None:
    score = [("a", 0.5), ("l", 0.1), ("u", 0.4)]
    motion = plan(score, sound=Waveform(np.zeros(16_000, np.float32)))
    assert motion.opening.max() == motion.jaw.max() == np.abs(motion.spread).max() == motion.tongue.max() == 0


def test_doubt_falls_back_to_the_sound() -> None:
    """Wrong visemes without confidence change nothing; with half of it they pull half the way."""
    sound = make_sound([("a", 0.4), ("m", 0.08), ("a", 0.4), (" ", 0.2)])
    wrong = [("u", 0.56), ("l", 0.1), ("u", 0.3)]
    timeline = Timeline(np.arange(96), Fraction(100))
    alone = plan_mouth_motion(sound, timeline, recognized(wrong, 0.0))
    for track in ("opening", "jaw", "spread", "closure", "tuck", "tongue"):
        doubted = getattr(plan_mouth_motion(sound, timeline, recognized(wrong, 0.1)), track)
        assert np.abs(doubted - getattr(alone, track)).max() < 1e-3, track
    none, half, full = (plan(wrong, 100.0, confidence, sound).spread[20:30].mean() for confidence in (0.1, 0.43, 0.9))
    assert full < half < none
    assert abs(half - (full + none) / 2) < 0.15


def test_a_moment_of_doubt_makes_no_jump() -> None:
    score = [("a", 1.0)]
    track = recognized(score)
    track.confidence[40:60] = 0
    sound = make_sound([("a", 0.1), ("i", 0.9)])
    motion = plan_mouth_motion(sound, Timeline(np.arange(100), Fraction(100)), track)
    assert motion.opening[35] - motion.opening[50] > 0.1
    assert np.abs(np.diff(motion.opening[30:70])).max() < 0.1
