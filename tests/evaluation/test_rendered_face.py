"""With several people in the picture, the metrics are about the face that was rendered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from retalking_core.clip_plan import plan_clip
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.sync_protocols import SceneTrack
from retalking_core.faces.landmarks import bounding_box
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.options import OutputOptions, RenderOptions
from retalking_core.progress import ignore_progress
from tests.faces.clips import backdrop, place_face, write_clip
from tests.preview.speech import talk, write_wav

WIDTH, HEIGHT = 680, 320
SIDES = {"largest": (0, WIDTH / 2), "right_most": (WIDTH / 2, WIDTH)}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A larger face on the left, a smaller one on the right; both are still."""
    folder = tmp_path_factory.mktemp("duo")
    picture = backdrop(WIDTH, HEIGHT)
    place_face(picture, 130, 170, 150)
    place_face(picture, 110, 510, 160)
    return write_clip(folder / "duo.mp4", [picture] * 30), write_wav(folder / "talk.wav", talk(2.0))


@pytest.mark.parametrize("max_height", [None, 240])
@pytest.mark.parametrize("face", SIDES)
def test_the_rendered_face_is_measured(
    face: str, max_height: int | None, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    options = RenderOptions(face=face, output=OutputOptions(max_height=max_height))
    result = tmp_path / "result.mp4"
    with plan_clip(*inputs, options, DEFAULT_LIMITS) as clip:
        report = PreviewEngine().render(clip, result, options, ignore_progress)
        measurement = Measurement(result, clip.speech, report, DEFAULT_LIMITS, clip.video, clip.timeline.source_index)
        left, right = (side * measurement.video.info.width / WIDTH for side in SIDES[face])
        for points, scale in ((measurement.landmarks, 1.0), (measurement.reference_landmarks, WIDTH / report.width)):
            centers = bounding_box(points)[:, ::2].mean(axis=1)
            assert ((centers > left * scale) & (centers < right * scale)).all()
        opening = measurement.mouth_opening
    assert float(np.nanstd(opening)) > 0.01, "the mouth that was drawn moves"
    other = replace(measurement, report=None, face_boxes=report.face_boxes[:, [2, 1, 0, 3]] * 0 + _other(face, report))
    assert float(np.nanstd(other.mouth_opening)) < 0.5 * float(np.nanstd(opening)), "the other one is still"


def _other(face: str, report: object) -> np.ndarray:
    """Where the face is that was not rendered, in pixels of the result."""
    scale = report.width / WIDTH
    x, y, half = (510, 160, 50) if face == "largest" else (170, 150, 60)
    return np.array([x - half, y - half, x + half, y + half], np.float32) * scale


def test_tracks_of_other_faces_are_left_out() -> None:
    wanted = np.full((100, 4), np.nan, np.float32)
    wanted[20:90] = (300, 100, 400, 200)
    same = SceneTrack(10, np.tile(np.array([290.0, 80, 410, 220]), (80, 1)))
    other = SceneTrack(10, np.tile(np.array([20.0, 80, 140, 220]), (80, 1)))
    assert same.follows(wanted)
    assert not other.follows(wanted)
    assert not same.follows(np.full((100, 4), np.nan, np.float32))


def test_evaluate_takes_a_face(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    options = RenderOptions(face="right_most")
    result = tmp_path / "result.mp4"
    with plan_clip(*inputs, options, DEFAULT_LIMITS) as clip:
        PreviewEngine().render(clip, result, options, ignore_progress)
    found = {}
    for face in ("left_most", "right_most", '{"x": 510, "y": 160}'):
        answer = CliRunner().invoke(
            app, ["evaluate", str(result), "--face", face, "--metrics", "mouth_speech_correlation", "--json"]
        )
        assert answer.exit_code == 0, answer.output
        found[face] = answer.stdout
    assert found["right_most"] == found['{"x": 510, "y": 160}'] != found["left_most"]
    refused = CliRunner().invoke(app, ["evaluate", str(result), "--face", "nearest"])
    assert refused.exit_code != 0
