"""A clip rendered in segments by different engines is the clip that one engine renders."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import av
import numpy as np
import pytest

from retalking_core.clip_plan import plan_clip
from retalking_core.engine import SegmentedEngine, load_analysis, render_files, save_analysis
from retalking_core.engines.preview.engine import PreviewAnalysis, PreviewEngine
from retalking_core.errors import EngineFaultError
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.writer import plan_segments
from retalking_core.options import OutputOptions, RenderOptions
from retalking_core.progress import Progress, ignore_progress
from tests.faces.clips import portrait, write_clip
from tests.preview.speech import talk, write_wav

# 11 s at 25 frames a second: a whole group of 240 pictures and a short one.
SECONDS = 11.0
OPTIONS = RenderOptions(output=OutputOptions(crf=30))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    xs = 140 + 8 * np.sin(np.arange(12) / 12 * 2 * np.pi)
    return write_clip(tmp_path_factory.mktemp("clip") / "moving.mp4", [portrait(110, 280, 260, x, 125) for x in xs])


def decoded(path: Path, kind: str) -> list[np.ndarray]:
    with av.open(str(path)) as media:
        return [frame.to_ndarray() for frame in media.decode(**{kind: 0})]


def test_segments_of_different_engines_join_to_the_unsplit_result(
    clip: Path, tmp_path: Path, opened: ExitStack
) -> None:
    speech = write_wav(tmp_path / "talk.wav", talk(SECONDS))
    engine = PreviewEngine()
    assert isinstance(engine, SegmentedEngine)
    whole = render_files(engine, clip, speech, tmp_path / "whole.mp4", OPTIONS, ignore_progress)
    told: list[Progress] = []
    scene = tmp_path / "scene"
    plan = opened.enter_context(plan_clip(clip, speech, OPTIONS, DEFAULT_LIMITS))
    drawn = [engine.analyze_clip(plan, scene, OPTIONS, told.append)]
    assert all(step.stage == "analyze" and step.fraction < 0.5 for step in told)
    parts = []
    segments = plan_segments(whole.frames)
    assert len(segments) == 2
    for number in (1, 0):  # in any order, each by an engine that has seen nothing else
        told.clear()
        part = tmp_path / f"part-{number}"
        drawn.append(PreviewEngine().render_segment(scene, clip, segments[number], part, OPTIONS, told.append))
        parts.insert(0, part)
        assert told[-1].fraction == 1.0
        assert told[-1].total == len(segments[number])
    joined = PreviewEngine().join_clip(plan, scene, parts, tmp_path / "joined.mp4", OPTIONS, drawn, ignore_progress)
    for kind in ("video", "audio"):
        seen, expected = (decoded(tmp_path / name, kind) for name in ("joined.mp4", "whole.mp4"))
        assert len(seen) == len(expected)
        assert all(np.array_equal(a, b) for a, b in zip(seen, expected, strict=True))
    assert np.array_equal(joined.mouth_target, whole.mouth_target)
    for name in ("frames", "fps", "duration_s", "width", "height", "face_coverage", "faceless_ranges_s", "notes"):
        assert getattr(joined, name) == getattr(whole, name)
    assert {"analyze", "draw", "encode", "join"} <= set(joined.stage_times_s)


def test_a_scene_that_is_damaged_or_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scene"
    for content in (b"", b"not an archive"):
        path.write_bytes(content)
        with pytest.raises(EngineFaultError, match="could not be read back"):
            load_analysis(path, PreviewAnalysis)
    save_analysis(path, OutputOptions())
    with pytest.raises(EngineFaultError, match="could not be read back"):
        load_analysis(path, PreviewAnalysis)


def test_a_scene_keeps_every_kind_of_value(tmp_path: Path) -> None:
    path = tmp_path / "scene"
    options = OutputOptions(crf=7, max_height=None, container="mkv", fps=12.5)
    save_analysis(path, options)
    assert load_analysis(path, OutputOptions) == options
    asked = RenderOptions(pads=(1, 2, 3, 4), expression="smile", one_shot=True)
    save_analysis(path, asked)
    assert load_analysis(path, RenderOptions) == asked
    with pytest.raises(TypeError, match="made_by"):
        save_analysis(path, _with_object())


def _with_object() -> object:
    from dataclasses import make_dataclass

    return make_dataclass("Odd", ["made_by"], frozen=True)(made_by=object())
