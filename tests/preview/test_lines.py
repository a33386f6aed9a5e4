"""Two people in one picture: each speaks its own lines, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from retalking_core.clip_plan import ClipPlan, LineInput, plan_clip
from retalking_core.engine import DrawingReport, EngineCapabilities, refuse_lines, render_files
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.errors import FaceNotFoundError, OptionUnsupportedError, SegmentsOverlapError
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metrics import measure_all
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.media.writer import ResultWriter
from retalking_core.options import FaceBox, FacePoint, OutputOptions, RenderOptions
from retalking_core.progress import ignore_progress
from retalking_core.types import Frame, RenderReport
from tests.media.dialogs import HEIGHT, WIDTH, Dialog, make_dialog, make_real_dialog, measure_result

OPTIONS = RenderOptions(output=OutputOptions(crf=4))
HALVES = (np.s_[:, : WIDTH // 2], np.s_[:, WIDTH // 2 :])


@pytest.fixture(scope="module")
def dialog(tmp_path_factory: pytest.TempPathFactory) -> Dialog:
    return make_dialog(tmp_path_factory.mktemp("dialog"))


@pytest.fixture(scope="module")
def engine() -> PreviewEngine:
    return PreviewEngine(tracker=DlibFaceTracker())


@pytest.fixture(scope="module")
def clip(dialog: Dialog) -> Iterator[ClipPlan]:
    with plan_clip(dialog.video, dialog.lines, OPTIONS, DEFAULT_LIMITS) as plan:
        yield plan


@pytest.fixture(scope="module")
def rendered(
    dialog: Dialog, engine: PreviewEngine, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RenderReport, Path, list[Frame]]:
    """The report, the file, and the frames as they went to the encoder."""
    frames: list[Frame] = []
    result = tmp_path_factory.mktemp("result") / "result.mp4"

    class Watched(ResultWriter):
        def write(self, frame: Frame) -> None:
            frames.append(frame)
            super().write(frame)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retalking_core.engines.preview.engine.ResultWriter", Watched)
        report = render_files(engine, dialog.video, dialog.lines, result, OPTIONS, ignore_progress)
    return report, result, frames


def test_each_face_moves_with_its_own_speech_only(
    dialog: Dialog, clip: ClipPlan, rendered: tuple[RenderReport, Path, list[Frame]]
) -> None:
    report, result, _ = rendered
    assert report.face_coverage == 1.0
    assert [(line.number, line.first_frame, len(line.face_boxes)) for line in report.lines] == [
        (line.number, line.frames.start, len(line.frames)) for line in clip.lines
    ]
    whole = Measurement(result, clip.speech, report, speakers=clip.speakers)
    names = ("face_coverage", "mouth_speech_correlation", "mouth_target_correlation")
    for value, least in zip(measure_all(whole, names), (1.0, 0.6, 0.8), strict=True):
        assert len(value.lines) == len(clip.lines)
        assert all((line.value or 0) >= least for line in value.lines), value
    for face in measure_result(dialog, result):
        assert face.own >= 0.6, face
        assert face.other <= 0.2, face


@pytest.mark.media
def test_each_real_face_moves_with_its_own_speech_only(media_dir: Path, engine: PreviewEngine, tmp_path: Path) -> None:
    scene = make_real_dialog(media_dir, tmp_path)
    with plan_clip(scene.video, scene.lines, OPTIONS, DEFAULT_LIMITS) as plan:
        engine.render(plan, tmp_path / "result.mp4", OPTIONS, ignore_progress)
    for face in measure_result(scene, tmp_path / "result.mp4"):
        assert face.own >= 0.6, face
        assert face.other <= 0.2, face


def test_nothing_else_changes(dialog: Dialog, clip: ClipPlan, rendered: tuple[RenderReport, Path, list[Frame]]) -> None:
    report, _, frames = rendered
    source = list(open_video(dialog.video, DEFAULT_LIMITS).frames())
    assert len(frames) == len(source)
    changed = np.zeros((2, len(frames)), bool)
    for k, (frame, plain) in enumerate(zip(frames, source, strict=True)):
        for side, half in enumerate(HALVES):
            changed[side, k] = not np.array_equal(frame.y[half], plain.y[half])
    for side, speaker in enumerate(clip.speakers):
        speaks = speaker.speaks(clip.frames)
        assert not changed[side, ~speaks].any(), "a silent face keeps every pixel"
        assert changed[side, speaks].mean() > 0.9
    for line in report.lines:
        for k in range(line.first_frame, line.first_frame + len(line.face_boxes), 7):
            outside = np.ones((HEIGHT, WIDTH), bool)
            for left, top, right, bottom in (box[k] for box in boxes_of(report, len(frames))):
                grow_x, grow_y = (right - left) / 2, (bottom - top) / 2
                rows = slice(max(0, int(top - grow_y)), int(bottom + grow_y) + 1)
                outside[rows, max(0, int(left - grow_x)) : int(right + grow_x) + 1] = False
            assert np.array_equal(frames[k].y[outside], source[k].y[outside])


def boxes_of(report: RenderReport, frames: int) -> list[NDArray[np.float32]]:
    """Of the left and the right face where they speak, f32 [M, 4], else empty ones."""
    boxes = [np.zeros((frames, 4), np.float32) for _ in range(2)]
    for line in report.lines:
        boxes[line.number % 2][line.first_frame :][: len(line.face_boxes)] = line.face_boxes
    return boxes


def test_the_effect_fades_in_and_out_of_a_line(
    dialog: Dialog, rendered: tuple[RenderReport, Path, list[Frame]]
) -> None:
    """At full opening all through, what changes grows from the line's ends inward."""
    report, _, _ = rendered
    target = report.lines[0].mouth_target
    assert target is not None
    peak = float(target.max())
    # Two frames (LINE_FADE_S): the first shows 0.26 of the opening, the second 0.74.
    for first, second in ((target[0], target[1]), (target[-1], target[-2])):
        assert 0 < float(first) < 0.3 * peak
        assert float(first) < float(second)


def test_segments_of_a_split_job_give_the_same_frames(
    dialog: Dialog, clip: ClipPlan, rendered: tuple[RenderReport, Path, list[Frame]], tmp_path: Path
) -> None:
    report, result, _ = rendered
    analysis, part = tmp_path / "analysis", tmp_path / "part"
    engine = PreviewEngine(tracker=DlibFaceTracker())
    drawn: list[DrawingReport] = [engine.analyze_clip(clip, analysis, OPTIONS, ignore_progress)]
    drawn.append(
        PreviewEngine().render_segment(analysis, dialog.video, range(clip.frames), part, OPTIONS, ignore_progress)
    )
    joined = engine.join_clip(clip, analysis, [part], tmp_path / "joined.mp4", OPTIONS, drawn, ignore_progress)
    one, other = (list(open_video(path, DEFAULT_LIMITS).frames()) for path in (result, tmp_path / "joined.mp4"))
    assert all(np.array_equal(a.y, b.y) for a, b in zip(one, other, strict=True))
    assert [replace(line) for line in joined.lines] == list(report.lines)


def test_a_face_that_is_not_there_is_named_with_its_segments(
    dialog: Dialog, engine: PreviewEngine, tmp_path: Path
) -> None:
    lines = [*dialog.lines[:2], LineInput(dialog.first, 3.0, 4.0, face=FaceBox(0, 200, 20, 220))]
    with pytest.raises(FaceNotFoundError, match=r"^Segment 3: No face was found inside the box") as refusal:
        render_files(engine, dialog.video, lines, tmp_path / "result.mp4", OPTIONS, ignore_progress)
    assert refusal.value.details == {"segments": [2]}
    assert not list(tmp_path.iterdir())


def test_two_choices_of_one_face_at_one_time_are_refused(dialog: Dialog, engine: PreviewEngine, tmp_path: Path) -> None:
    lines = [
        LineInput(dialog.first, 0.4, 1.4, face="left_most"),
        LineInput(dialog.second, 1.0, 2.0, face=FacePoint(120, 108)),
    ]
    with pytest.raises(SegmentsOverlapError, match=r"Segments 1 and 2 .* from 1\.00 to 1\.40"):
        render_files(engine, dialog.video, lines, tmp_path / "result.mp4", OPTIONS, ignore_progress)


def test_an_engine_that_draws_no_lines_refuses_them(clip: ClipPlan) -> None:
    plain = EngineCapabilities(name="plain", version="1", device="cpu", description="", unsupported_options={})
    with pytest.raises(OptionUnsupportedError, match="no segments") as refusal:
        refuse_lines(clip, OPTIONS, plain)
    assert refusal.value.details == {"option": "segments"}
