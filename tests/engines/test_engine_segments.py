"""The neural engine shares a clip: what segments draw, each by an engine of its own, is what one render draws."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from retalking_core.clip_plan import plan_clip
from retalking_core.engine import SegmentedEngine
from retalking_core.engines.videoretalking import engine as videoretalking
from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.media.writer import SegmentWriter
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ignore_progress
from retalking_core.types import Frame
from tests.engines.stand_ins import StandIns, speaking_enet
from tests.engines.test_videoretalking import FRAMES, render_watched
from tests.faces.clips import portrait, write_clip
from tests.preview.speech import make_sound, write_wav


@pytest.mark.parametrize("options", [RenderOptions(), RenderOptions(one_shot=True)])
def test_segments_draw_what_one_render_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: ExitStack, options: RenderOptions
) -> None:
    pictures = [portrait(130, 340, 320, 170 + 1.5 * k, 150) for k in range(FRAMES)]
    clip = write_clip(tmp_path / "moving.mp4", pictures)
    speech = write_wav(tmp_path / "a.wav", make_sound([("a", 0.1), (" ", FRAMES / 25 - 0.1)]))
    whole = render_watched(StandIns(enet=speaking_enet), clip, speech, tmp_path / "whole.mp4", options, {})
    drawn_frames: list[Frame] = []

    class Watched(SegmentWriter):
        def write(self, frame: Frame) -> None:
            drawn_frames.append(frame)
            super().write(frame)

    monkeypatch.setattr(videoretalking, "SegmentWriter", Watched)
    engine = VideoRetalkingEngine(StandIns(enet=speaking_enet))
    assert isinstance(engine, SegmentedEngine)
    scene, told = tmp_path / "scene", list[Progress]()
    plan = opened.enter_context(plan_clip(clip, speech, options, DEFAULT_LIMITS))
    drawn = [engine.analyze_clip(plan, scene, options, told.append)]
    assert all(step.stage == "analyze" and step.fraction <= 0.2 for step in told)
    parts = []
    for first in (2, 0):  # in any order, each by an engine that has seen nothing else
        other = VideoRetalkingEngine(StandIns(enet=speaking_enet))
        parts.insert(0, tmp_path / f"part-{first}")
        told.clear()
        drawn.append(other.render_segment(scene, clip, range(first, first + 2), parts[0], options, told.append))
        assert told[-1].fraction == 1.0
    in_order = drawn_frames[2:4] + drawn_frames[:2]
    for a, b in zip(in_order, whole.frames, strict=True):
        assert all(np.array_equal(x, y) for x, y in ((a.y, b.y), (a.u, b.u), (a.v, b.v)))
    # A result this short is one segment when it is joined.
    drawn.append(engine.render_segment(scene, clip, range(FRAMES), tmp_path / "all", options, ignore_progress))
    joined = engine.join_clip(plan, scene, [tmp_path / "all"], tmp_path / "joined.mp4", options, drawn, ignore_progress)
    assert open_video(tmp_path / "joined.mp4", DEFAULT_LIMITS).info.frame_count == FRAMES
    for name in ("frames", "fps", "duration_s", "width", "height", "face_coverage", "faceless_ranges_s", "notes"):
        assert getattr(joined, name) == getattr(whole.report, name)
    assert {"analyze", "lips", "encode", "join"} <= set(joined.stage_times_s)
    assert not list(tmp_path.glob(".faces-*"))
