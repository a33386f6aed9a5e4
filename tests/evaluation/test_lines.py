"""Metrics of a result in which several faces speak: of each line, and of the picture around all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from retalking_core.clip_plan import ClipPlan, LineInput, plan_clip
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.evaluation.face_points import find_points
from retalking_core.evaluation.frame_pass import boxes_around, face_box
from retalking_core.evaluation.measurement import EarlyLooks, Measurement
from retalking_core.evaluation.metrics import METRICS, available_metrics, looks_of, measure_all
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.options import RenderOptions
from retalking_core.progress import ignore_progress
from retalking_core.types import RenderReport
from tests.media.dialogs import FPS, Dialog, make_dialog

NAMES = available_metrics(None)
PER_LINE = [name for name in NAMES if METRICS[name].is_per_line]
LEFT_S, RIGHT_S = (0.2, 1.4), (0.8, 2.2)  # they overlap from 0.8 to 1.4 s
SECONDS = 2.4


@pytest.fixture(scope="module")
def dialog(tmp_path_factory: pytest.TempPathFactory) -> Dialog:
    return make_dialog(tmp_path_factory.mktemp("dialog"), SECONDS)


@pytest.fixture(scope="module")
def clip(dialog: Dialog) -> Iterator[ClipPlan]:
    lines = [
        LineInput(dialog.second, *RIGHT_S, face="right_most"),
        LineInput(dialog.first, *LEFT_S, face="left_most"),
    ]
    with plan_clip(dialog.video, lines, RenderOptions(), DEFAULT_LIMITS) as plan:
        yield plan


@pytest.fixture(scope="module")
def engine() -> PreviewEngine:
    return PreviewEngine(tracker=DlibFaceTracker())


@pytest.fixture(scope="module")
def rendered(
    clip: ClipPlan, engine: PreviewEngine, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Measurement, RenderReport]:
    """The finished file, and what the engine reports."""
    result = tmp_path_factory.mktemp("result") / "result.mp4"
    report = engine.render(clip, result, RenderOptions(), ignore_progress)
    draft = Measurement(
        result,
        clip.speech,
        reference=clip.video,
        source_index=clip.timeline.source_index,
        speakers=clip.speakers,
    )
    return replace(draft, report=report), report


def test_each_line_has_the_values_that_its_face_frames_and_speech_have_alone(
    clip: ClipPlan, rendered: tuple[Measurement, RenderReport]
) -> None:
    whole, report = rendered
    values = {each.name: each for each in measure_all(whole, NAMES)}
    assert {name for name, value in values.items() if value.lines} == set(PER_LINE)
    for number, (line, drawn) in enumerate(zip(clip.lines, report.lines, strict=True)):
        alone = Measurement(
            whole.result,
            line.speech,
            frames=line.frames,
            face_boxes=drawn.face_boxes,
            stored_mouth_target=drawn.mouth_target,
        )
        for name, want in zip(PER_LINE, measure_all(alone, PER_LINE), strict=True):
            got = values[name].lines[number]
            assert (got.value, got.reason) == (want.value, want.reason), (name, number)
    for name in PER_LINE:
        assert values[name].value is None
        assert "2 speak in this result: see `segments`" in str(values[name].reason)
    assert [line.value for line in values["face_coverage"].lines] == [1.0, 1.0]
    assert all((line.value or 0) > 0.6 for line in values["mouth_target_correlation"].lines)


def test_values_beside_the_render_are_those_of_the_finished_file(
    clip: ClipPlan, engine: PreviewEngine, rendered: tuple[Measurement, RenderReport], tmp_path: Path
) -> None:
    draft = replace(rendered[0], result=tmp_path / "result.mp4", report=None)
    with EarlyLooks(draft, looks_of(draft, NAMES)) as early:
        report = engine.render(replace(clip, tap=early.tap), draft.result, RenderOptions(), ignore_progress)
        beside = replace(draft, report=report, early=early)
        assert early.findings(beside).keys() == {"lines", "outside", "ssim"}, "and nothing about one face of several"
        values = measure_all(beside, NAMES)
    after = measure_all(replace(draft, report=report), NAMES)
    assert [asdict(value) for value in values] == [asdict(value) for value in after]


def test_the_picture_outside_is_outside_of_all_faces_that_speak(
    clip: ClipPlan, rendered: tuple[Measurement, RenderReport]
) -> None:
    whole, report = rendered
    (value,) = measure_all(whole, ["psnr_outside_face"])
    frames = [list(open_video(path, DEFAULT_LIMITS).frames()) for path in (whole.result, clip.video)]
    points = [
        find_points([frames[0][k] for k in line.frames], drawn.face_boxes)
        for line, drawn in zip(clip.lines, report.lines, strict=True)
    ]
    squared, pixels = 0.0, 0
    for number, (one, other) in enumerate(zip(*frames, strict=True)):
        outside = np.ones(one.y.shape, bool)
        for line, marks in zip(clip.lines, points, strict=True):
            if number in line.frames:
                left, top, right, bottom = face_box(marks[number - line.frames.start], *one.y.shape[::-1])
                outside[top:bottom, left:right] = False
        squared += float(((one.y.astype(float) - other.y)[outside] ** 2).sum())
        pixels += int(outside.sum())
    assert value.value == pytest.approx(10 * np.log10(255**2 * pixels / squared), abs=1e-9)
    assert value.detail["frames"] == round(SECONDS * FPS), "also the frames on which nobody speaks"
    assert value.lines == ()
    # The mouths were moved: with the faces, the picture has changed by more.
    (with_one,) = measure_all(replace(whole, speakers=clip.speakers[:1], report=_without(report, 1)), [value.name])
    assert (with_one.value or 0) < (value.value or 0) - 1


def _without(report: RenderReport, number: int) -> RenderReport:
    """The report as if a line had not been drawn."""
    return replace(report, lines=tuple(line for line in report.lines if line.number != number))


def test_a_report_without_faces_of_its_lines_leaves_their_values_out(
    rendered: tuple[Measurement, RenderReport],
) -> None:
    whole, report = rendered
    silent = replace(whole, report=replace(report, lines=()))
    for value in measure_all(silent, ["face_coverage", "psnr_outside_face", "ssim"]):
        for line in value.lines:
            assert (line.value, line.reason) == (None, "the engine does not state where the faces of the segments are")
        if value.name == "psnr_outside_face":
            assert value.reason == "the engine does not state where the faces of the segments are"
        assert (value.value is None) == (value.name != "ssim")


def test_boxes_around_are_the_rest_of_the_picture() -> None:
    random = np.random.default_rng(5)
    for count in (0, 1, 2, 5):
        corners = random.integers(0, 40, (count, 2, 2))
        boxes = [(*map(int, pair.min(axis=0)), *map(int, pair.max(axis=0))) for pair in corners]
        want = np.zeros((40, 40), int)
        for left, top, right, bottom in boxes:
            want[top:bottom, left:right] = 1
        got = np.zeros_like(want)
        for left, top, right, bottom in boxes_around(boxes, 40, 40):
            assert left < right
            assert top < bottom
            got[top:bottom, left:right] += 1
        np.testing.assert_array_equal(got, 1 - want)
