"""Who speaks: how well the motion of each mouth fits the sound.

From the sound alone follows how a speaking mouth would move (`plan_mouth_motion`) and when anybody speaks at all. Five
correlations compare that with what a face does: the height of the mouth with the expected opening, its change with the
expected change, its width with the expected spread, and how much it moves with how much it should, and with the voice
being active. Chewing and smiling move a mouth as well, but not with the sound. Measured in docs/speakers.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retalking_core.audio.phones import Report, Viseme, ignore_share
from retalking_core.audio.visemes import VISEME_RATE_HZ, recognize_visemes
from retalking_core.engines.preview.mouth_motion import plan_mouth_motion
from retalking_core.types import Timeline, Waveform

# Mouth and sound are compared at this rate, whatever the rate of the video.
RATE_HZ = 25
# Slower motion of a mouth is a smile or a turned head.
SLOWEST_S = 1.5
# How far the sound may be ahead of or behind the picture, in frames of `RATE_HZ`.
LAGS = range(-1, 4)
# Standard deviation of a mouth's height, in face scales, up to which it counts as still (the scatter of the landmarks)
# and from which as moving.
STILL, MOVING = 0.008, 0.03
# Standard deviation of the voice's probability from which its pauses count fully.
VARIED = 0.25
# Fewer frames of `RATE_HZ` say nothing.
LEAST_FRAMES = 12
# Share of a range in which a voice must be active for anybody to speak in it, and what counts as active.
LEAST_VOICED, ACTIVE = 0.08, 0.5
# Score from which a face can be chosen as the speaker: somebody is heard, and most often somebody who is seen.
SPEAKS = 0.06
# Probability over time: windows of this length, a quarter of a second apart; the score that is as likely as not, and
# the steepness of the logistic around it.
WINDOW_S, STEP_S, EVEN, STEEPNESS = 2.0, 0.24, 0.17, 25.0

Values = NDArray[np.float64]


@dataclass(frozen=True)
class SpeechCues:
    """What the sound says about a speaking mouth, at `RATE_HZ`; f64 [T] each.

    opening: 0..1; spread: -1 rounded .. 1 wide; voice: probability that somebody speaks, 0..1.
    """

    opening: Values
    spread: Values
    voice: Values


def hear_speech(speech: Waveform, report: Report = ignore_share) -> SpeechCues:
    """speech: the video's own sound. report: as of `recognize_visemes`. No voice activity detector beside the viseme
    network: docs/dependencies.md."""
    count = max(1, int(speech.duration_s * RATE_HZ))
    visemes = recognize_visemes(speech, report=report)
    timeline = Timeline(np.zeros(count, np.int64), Fraction(RATE_HZ))
    motion = plan_mouth_motion(speech, timeline, visemes)
    times_s = (np.arange(count) + 0.5) / RATE_HZ
    voice = _smooth(1 - visemes.posteriors[:, Viseme.SILENCE].astype(np.float64), 7)
    rows = np.arange(len(voice)) + 0.5
    active = np.interp(times_s * VISEME_RATE_HZ, rows, voice)
    return SpeechCues(motion.opening.astype(np.float64), motion.spread.astype(np.float64), active)


@dataclass(frozen=True)
class MouthTrack:
    """One person's mouth on the clock of `SpeechCues`; f64 [T] each, NaN where it is not seen.

    height, width: in face scales.
    """

    height: Values
    width: Values


def sample_mouth(mouth: NDArray[np.float32], times_s: NDArray[np.float64], duration_s: float) -> MouthTrack:
    """mouth: f32 [N, 2], as of `Person.mouth`, on frames at times_s [N]."""
    clock_s = (np.arange(max(1, int(duration_s * RATE_HZ))) + 0.5) / RATE_HZ
    seen = np.isfinite(mouth[:, 0])
    if not seen.any():
        nowhere = np.full(len(clock_s), np.nan)
        return MouthTrack(nowhere, nowhere)
    nearest = np.clip(np.searchsorted(times_s, clock_s, side="right") - 1, 0, len(times_s) - 1)
    tracks = (
        np.where(seen[nearest], np.interp(clock_s, times_s[seen], mouth[seen, k].astype(np.float64)), np.nan)
        for k in range(2)
    )
    return MouthTrack(*tracks)


def speaking_score(mouth: MouthTrack, cues: SpeechCues, start: int, stop: int) -> float:
    """How well a mouth fits the sound between two frames of `RATE_HZ`: -1..1, about 0 for one that does not speak."""
    start, stop = max(0, start), min(stop, len(mouth.height), len(cues.opening))
    if stop - start < LEAST_FRAMES:
        return 0.0
    seen = np.isfinite(mouth.height[start:stop])
    if seen.sum() < LEAST_FRAMES:
        return 0.0
    # Filtered with what lies around the range, so that its ends are no edges.
    around = slice(max(0, start - RATE_HZ), stop + RATE_HZ)
    inside = slice(start - around.start, stop - around.start)
    height, width = (_filled(track[around]) for track in (mouth.height, mouth.width))
    opening, spread, voice = (track[around] for track in (cues.opening, cues.spread, cues.voice))
    moved = _without_drift(height)
    # A voice that never pauses says nothing about when a mouth rests.
    varies = min(1.0, float(voice[inside].std()) / VARIED) ** 2
    travel = _smooth(np.abs(np.gradient(moved)), 9)
    pairs = (
        (1.0, moved, _without_drift(opening)),
        (1.0, np.gradient(_smooth(height, 3)), np.gradient(_smooth(opening, 3))),
        (1.0, _without_drift(width), _without_drift(spread)),
        (1.0, travel, _smooth(np.abs(np.gradient(opening)), 9)),
        (varies, travel, _smooth(voice, 5)),
    )
    total = sum(weight for weight, _, _ in pairs)
    fits = [
        sum(weight * _correlation(one[inside], other[inside], seen, lag) for weight, one, other in pairs) / total
        for lag in LAGS
    ]
    moves = float(np.clip((moved[inside][seen].std() - STILL) / (MOVING - STILL), 0, 1))
    return max(fits) * moves * float(seen.mean())


def voiced_share(cues: SpeechCues, start: int, stop: int) -> float:
    """Share of the frames in which somebody speaks, 0..1."""
    voice = cues.voice[max(0, start) : stop]
    return float((voice > ACTIVE).mean()) if len(voice) else 0.0


def find_speaker(
    mouths: Sequence[MouthTrack], cues: SpeechCues, start_s: float, end_s: float
) -> tuple[int | None, float]:
    """Which mouth speaks in a range of the video's clock, and its score; None where none fits the sound."""
    start, stop = int(start_s * RATE_HZ), int(np.ceil(end_s * RATE_HZ))
    if not mouths or voiced_share(cues, start, stop) < LEAST_VOICED:
        return None, 0.0
    scores = [speaking_score(mouth, cues, start, stop) for mouth in mouths]
    best = int(np.argmax(scores))
    return (best if scores[best] >= SPEAKS else None), scores[best]


def speaking_probability(mouth: MouthTrack, cues: SpeechCues) -> Values:
    """f64 [T], 0..1 at `RATE_HZ`; 0 where nobody is heard, NaN where the mouth is not seen."""
    count = len(mouth.height)
    half = int(WINDOW_S * RATE_HZ / 2)
    centers = np.arange(0, count, round(STEP_S * RATE_HZ))
    scores = np.array([speaking_score(mouth, cues, int(c) - half, int(c) + half) for c in centers])
    likely = 1 / (1 + np.exp(-STEEPNESS * (np.interp(np.arange(count), centers, scores) - EVEN)))
    voice = np.interp(np.arange(count), np.arange(len(cues.voice)), cues.voice, right=0.0)
    return np.where(np.isfinite(mouth.height), likely * voice, np.nan)


def _filled(values: Values) -> Values:
    known = np.flatnonzero(np.isfinite(values))
    return np.interp(np.arange(len(values)), known, values[known])


def _smooth(values: NDArray[Any], width: int) -> Values:
    """Moving mean, ends held; width: odd."""
    padded = np.pad(values, width // 2, mode="edge")
    smooth: Values = np.convolve(padded, np.full(width, 1 / width), mode="valid")
    return smooth


def _without_drift(values: Values) -> Values:
    return values - _smooth(values, int(SLOWEST_S * RATE_HZ) | 1)


def _correlation(one: Values, other: Values, seen: NDArray[np.bool_], lag: int) -> float:
    """Pearson r of one[t + lag] with other[t] where one is seen; 0 where either does not move."""
    late, early = one[max(0, lag) : len(one) + min(0, lag)], other[max(0, -lag) : len(other) + min(0, -lag)]
    both = seen[max(0, lag) : len(one) + min(0, lag)]
    late, early = late[both], early[both]
    if len(late) < LEAST_FRAMES or late.std() < 1e-6 or early.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(late, early)[0, 1])
