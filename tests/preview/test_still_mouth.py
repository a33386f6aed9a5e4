"""A mouth that never moves although there is sound is noted."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from retalking_core.clip_plan import plan_clip
from retalking_core.engine import render_files
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.options import OutputOptions, RenderOptions
from retalking_core.progress import ignore_progress
from retalking_core.types import RenderReport
from tests.faces.clips import portrait, write_clip
from tests.media.corpus import utterance, write_speech

OPTIONS = RenderOptions(output=OutputOptions(crf=30))
HUM = (0.1 * np.sin(2 * np.pi * 50 * np.arange(2 * 16_000) / 16_000)).astype(np.float32)
SOUNDS = {"a hum": (HUM, True), "silence": (np.zeros_like(HUM), False), "speech": (utterance(2.0), False)}


@pytest.fixture(scope="module")
def face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("face") / "face.mp4", [portrait(110, 280, 260, 140, 125)] * 10)


@pytest.mark.parametrize("name", SOUNDS)
def test_a_mouth_that_stays_closed_under_sound_is_noted(name: str, face: Path, tmp_path: Path) -> None:
    samples, is_noted = SOUNDS[name]
    speech = write_speech(tmp_path / "sound.wav", samples)
    report = render_files(PreviewEngine(), face, speech, tmp_path / "result.mp4", OPTIONS, ignore_progress)
    assert ("mouth_still" in [note.code for note in report.notes]) is is_noted


def test_only_a_mouth_that_was_found_and_aimed_at_can_be_still(face: Path, tmp_path: Path) -> None:
    speech = write_speech(tmp_path / "sound.wav", utterance(2.0))
    still = RenderReport("preview", "1", "cpu", 50, Fraction(25), 2.0, 280, 260, 1.0, [], {}, np.zeros(50, np.float32))
    moving = np.where(np.arange(50) == 25, np.float32(0.06), np.float32(0))
    cases = {
        True: [still, replace(still, mouth_target=np.full(50, 0.04, np.float32))],
        False: [
            replace(still, mouth_target=None),
            replace(still, face_coverage=0.0),
            replace(still, mouth_target=moving),
        ],
    }
    with plan_clip(face, speech, OPTIONS, DEFAULT_LIMITS) as clip:
        for is_noted, reports in cases.items():
            for report in reports:
                codes = [note.code for note in clip.complete(report).notes]
                assert ("mouth_still" in codes) is is_noted
