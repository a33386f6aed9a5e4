"""The engine on a real clip, cut to a few frames, with light networks (tests/e2e/test_neural_job: the full ones)."""

from __future__ import annotations

import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from retalking_core import clip_plan
from retalking_core.clip_plan import plan_timeline
from retalking_core.engine import render_files
from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.options import RenderOptions
from retalking_core.progress import ignore_progress
from retalking_core.types import RenderReport
from tests.engines.stand_ins import StandIns

PROJECT = Path(__file__).resolve().parents[2]
MEDIA = Path(os.environ.get("RETALKING_MEDIA_DIR", PROJECT.parent / "shared" / "media"))

pytestmark = pytest.mark.media


def _render(engine: VideoRetalkingEngine, frames: int, result: Path, patch: pytest.MonkeyPatch) -> RenderReport:
    video, speech = MEDIA / "1.mp4", MEDIA / "1.wav"
    if not video.exists() or not speech.exists():
        pytest.skip("no 1.mp4 and 1.wav: set RETALKING_MEDIA_DIR")

    def plan_few(*args, **kwargs):
        plan = plan_timeline(*args, **kwargs)
        assert abs(plan.duration_s - 80249 / 16000) <= 1 / plan.fps
        return replace(plan, source_index=plan.source_index[:frames])

    patch.setattr(clip_plan, "plan_timeline", plan_few)
    return render_files(engine, video, speech, result, RenderOptions(), ignore_progress)


def test_light_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = tmp_path / "result.mp4"
    report = _render(VideoRetalkingEngine(StandIns()), 3, result, monkeypatch)
    assert (report.frames, report.fps, report.width, report.height) == (3, Fraction(1350, 61), 700, 700)
    assert report.face_coverage == 1.0
    assert report.held is not None
    assert report.held.path == MEDIA / "1.mp4", "an evaluation need not decode the source again"
    decoded = (open_video(path, DEFAULT_LIMITS).frames_at([0, 1]) for path in (MEDIA / "1.mp4", result))
    for plain, made in zip(*decoded, strict=True):
        assert np.abs(plain.y.astype(int) - made.y).mean() < 2
