"""`viseme_agreement`: the share of bilabials at which the mouth is shut, on tracks and on files."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from retalking_core.audio.visemes import Viseme, VisemeTrack
from retalking_core.errors import RenderCanceled
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metrics import evaluate, measure_all
from retalking_core.evaluation.sync import LipAgreement, measure_agreement
from retalking_core.progress import Progress
from retalking_core.types import Waveform
from tests.audio.spoken import read_spoken
from tests.faces.clips import backdrop, write_clip
from tests.preview.speech import write_wav

FPS = 25.0


def track_with(holds_s: list[tuple[float, float]], seconds: float = 4.0, sure: float = 0.9) -> VisemeTrack:
    """Open vowels all the way, but for bilabials at these times."""
    labels = np.full(round(seconds * 100), Viseme.OPEN)
    for start_s, end_s in holds_s:
        labels[round(100 * start_s) : round(100 * end_s)] = Viseme.BILABIAL
    posteriors = np.full((len(labels), len(Viseme)), (1 - sure) / 8, np.float32)
    posteriors[np.arange(len(labels)), labels] = sure
    return VisemeTrack(posteriors, posteriors.max(axis=1), np.zeros(len(posteriors), np.float32))


HOLDS_S = [(0.5, 0.58), (1.2, 1.28), (2.0, 2.08), (3.0, 3.08)]


def gap_shut_at(times_s: list[float]) -> np.ndarray:
    gap = np.full(100, 0.06, np.float32)
    gap[[int(time_s * FPS) for time_s in times_s]] = 0.01
    return gap


def test_share_of_bilabials_that_shut() -> None:
    found = measure_agreement(gap_shut_at([0.54, 1.24, 2.6]), FPS, track_with(HOLDS_S))
    assert isinstance(found, LipAgreement)
    assert (found.bilabials, found.shut, found.unseen, found.share) == (4, 2, 0, 0.5)


def test_a_shut_mouth_counts_40_ms_beside_the_sound_and_not_80() -> None:
    near = measure_agreement(gap_shut_at([0.46, 1.3, 2.1, 3.1]), FPS, track_with(HOLDS_S))
    far = measure_agreement(gap_shut_at([0.40, 1.1, 1.86, 3.18]), FPS, track_with(HOLDS_S))
    assert isinstance(near, LipAgreement)
    assert isinstance(far, LipAgreement)
    assert (near.shut, far.shut) == (4, 0)


def test_bilabials_without_a_face_are_left_out() -> None:
    gap = gap_shut_at([0.54, 1.24, 2.04])
    gap[70:] = np.nan
    found = measure_agreement(gap, FPS, track_with(HOLDS_S))
    assert isinstance(found, LipAgreement)
    assert (found.bilabials, found.unseen, found.share) == (3, 1, 1.0)
    assert "seen at 0 of 4" in measure_agreement(np.full(100, np.nan, np.float32), FPS, track_with(HOLDS_S))


def test_too_few_or_unclear_bilabials_say_why() -> None:
    gap = gap_shut_at([0.54])
    assert "2 p, b or m" in measure_agreement(gap, FPS, track_with(HOLDS_S[:2]))
    unclear = track_with(HOLDS_S)
    vowels = unclear.posteriors[:, Viseme.OPEN] > 0.5
    unclear.posteriors[vowels] = 0.1
    unclear.posteriors[vowels, Viseme.OPEN] = 0.2
    unsure = VisemeTrack(unclear.posteriors, unclear.posteriors.max(axis=1), unclear.tongue)
    assert "unclear" in measure_agreement(gap, FPS, unsure)


def test_a_file_without_a_face_or_without_speech_has_a_reason(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "empty.mp4", [backdrop(160, 120)] * 50)
    speech, _ = read_spoken()
    (value,) = evaluate(clip, write_wav(tmp_path / "talk.wav", speech), None, ["viseme_agreement"])
    assert value.value is None
    assert "the mouth is seen at 0 of" in value.reason
    noise = np.random.default_rng(1).normal(0, 0.1, 32_000).astype(np.float32)
    (value,) = evaluate(clip, write_wav(tmp_path / "noise.wav", type(speech)(noise)), None, ["viseme_agreement"])
    assert value.value is None
    assert "0 p, b or m" in value.reason


@pytest.mark.skipif(find_spec("pocketsphinx") is None, reason="PocketSphinx is not installed: no long decoding")
def test_a_canceled_evaluation_stops_hearing(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "empty.mp4", [backdrop(160, 120)] * 50)
    speech = Waveform(read_spoken()[0].samples[800:])  # not heard before: answers are kept

    def cancel_while_hearing(step: Progress) -> None:
        if step.total == 0:
            raise RenderCanceled("enough")

    with pytest.raises(RenderCanceled):
        measure_all(Measurement(clip, speech, progress=cancel_while_hearing), ["viseme_agreement"])
