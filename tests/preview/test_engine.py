"""The whole preview engine on clips made from one portrait and synthesized speech."""

from __future__ import annotations

import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from skimage import data

from retalking_core.clip_plan import plan_clip
from retalking_core.engine import render_files
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.errors import FaceMissingError, FaceNotFoundError, OptionUnsupportedError, RenderCanceled
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metrics import evaluate, measure_all
from retalking_core.faces.track import effect_strength, faceless_ranges_s, fade_strength
from retalking_core.media.encoder import badge_box
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.options import OutputOptions, RenderOptions
from retalking_core.progress import Progress, ignore_progress
from tests.audio.spoken import read_spoken
from tests.faces.clips import backdrop, portrait, write_clip
from tests.faces.covers import covered
from tests.preview.rendering import render_watched
from tests.preview.speech import talk, write_wav


@pytest.fixture(scope="module")
def engine() -> PreviewEngine:
    engine = PreviewEngine()
    engine.warm_up()
    return engine


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("speech") / "talk.wav", talk(3.0))


@pytest.fixture(scope="module")
def moving_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    xs = 170 + 15 * np.sin(np.arange(30) / 30 * 2 * np.pi)
    pictures = [portrait(130, 340, 320, x, 150) for x in xs]
    return write_clip(tmp_path_factory.mktemp("clip") / "moving.mp4", pictures)


def measured(result: Path, speech: Path, report: object) -> dict[str, float | None]:
    names = ["mouth_target_correlation", "mouth_target_lag", "av_duration_difference", "face_coverage"]
    return {value.name: value.value for value in evaluate(result, speech, report, names)}


def test_still_portrait_speaks(engine, speech, tmp_path, monkeypatch) -> None:
    picture = tmp_path / "astronaut.png"
    cv2.imwrite(str(picture), data.astronaut()[..., ::-1])
    result = tmp_path / "result.mp4"
    watched = render_watched(engine, picture, speech, result, monkeypatch)
    report = watched.report
    assert (report.engine, report.device, report.frames, report.face_coverage) == ("preview", "cpu", 75, 1.0)
    assert all(watched.outside_equal)
    assert max(watched.inside_change) > 0.05
    values = measured(result, speech, report)
    assert values["mouth_target_correlation"] >= 0.8
    assert abs(values["mouth_target_lag"]) <= 1
    assert values["av_duration_difference"] <= 1
    assert values["face_coverage"] == 1.0


def test_moving_portrait_speaks(engine, speech, moving_clip, tmp_path, monkeypatch) -> None:
    result = tmp_path / "result.mp4"
    watched = render_watched(engine, moving_clip, speech, result, monkeypatch)
    assert all(watched.outside_equal)
    values = measured(result, speech, watched.report)
    assert values["mouth_target_correlation"] >= 0.8
    assert abs(values["mouth_target_lag"]) <= 1
    assert values["av_duration_difference"] <= 1
    steps = [step.fraction for step in watched.progress]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0.0, 1.0)
    assert {step.stage for step in watched.progress} == {"analyze", "synthesize"}
    assert set(watched.report.stage_times_s) >= {"read", "analyze", "draw", "encode", "synthesize"}


def test_lips_of_a_smile_shut_at_the_bilabials_of_speech(engine, tmp_path) -> None:
    """Measured in the result, by the metric and with landmarks found again."""
    picture, spoken = tmp_path / "portrait.png", read_spoken()[0]
    cv2.imwrite(str(picture), portrait(220, 480, 440, 240, 210))
    speech, result = write_wav(tmp_path / "talk.wav", spoken), tmp_path / "result.mp4"
    report = render_files(engine, picture, speech, result, RenderOptions(), ignore_progress)
    (agreement,) = evaluate(result, speech, report, ["viseme_agreement"])
    assert agreement.value is not None
    assert agreement.value >= 0.9


def test_a_transcript_that_does_not_fit_is_noted(engine, speech, moving_clip, tmp_path) -> None:
    options = RenderOptions(transcript="Far more words than anybody could say in three seconds. " * 8)
    report = render_files(engine, moving_clip, speech, tmp_path / "result.mp4", options, ignore_progress)
    assert "transcript_unused" in [note.code for note in report.notes]
    scene = tmp_path / "scene"
    with plan_clip(moving_clip, speech, options, DEFAULT_LIMITS) as plan:
        found = engine.analyze_clip(plan, scene, options, ignore_progress)
    assert "transcript_unused" in [note.code for note in found.notes]


def test_file_says_what_it_is(engine, speech, moving_clip, tmp_path) -> None:
    result = tmp_path / "result.mp4"
    render_files(engine, moving_clip, speech, result, RenderOptions(), ignore_progress)
    with av.open(str(result)) as container:
        assert "preview" in container.metadata["title"]
        assert "Synthetic media" in container.metadata["comment"]


def test_silence_closes_the_mouth_of_a_smile(engine, speech, tmp_path, monkeypatch) -> None:
    """The end of the speech is silent: the teeth of the portrait must be covered by then, and stay so."""
    picture = tmp_path / "portrait.png"
    cv2.imwrite(str(picture), portrait(220, 480, 440, 240, 210))
    result = tmp_path / "result.mp4"
    report = render_watched(engine, picture, speech, result, monkeypatch).report
    assert report.mouth_target[-4:].max() < 0.05
    with av.open(str(result)) as container:
        last = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)][-4:]
    assert max(np.abs(a.astype(int) - last[-1]).mean() for a in last) < 0.6
    mouth = last[-1][235:275, 215:265]
    smiling = cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2GRAY)[235:275, 215:265]
    assert np.percentile(mouth, 99) < np.percentile(smiling, 99) - 15


def test_faceless_middle_passes_through_with_a_fade(engine, tmp_path, monkeypatch) -> None:
    face, empty = portrait(130, 340, 320, 170, 150), backdrop(340, 320) // 3
    clip = write_clip(tmp_path / "clip.mp4", [face] * 25 + [empty] * 12 + [face] * 25)
    speech = write_wav(tmp_path / "talk.wav", talk(62 / 25))
    result = tmp_path / "result.mp4"
    watched = render_watched(engine, clip, speech, result, monkeypatch)
    assert all(watched.outside_equal)
    assert [box is None for box in watched.boxes] == [False] * 25 + [True] * 12 + [False] * 25
    assert watched.inside_change[25:37] == [0.0] * 12
    assert watched.report.faceless_ranges_s == [(1.0, 1.48)]
    assert watched.report.face_coverage == pytest.approx(50 / 62)
    target = watched.report.mouth_target
    assert (target[25:37] == 0).all()
    with pytest.raises(FaceMissingError, match=r"1\.00-1\.48 s") as caught:
        render_files(engine, clip, speech, result, RenderOptions(missing_face="fail"), ignore_progress)
    assert caught.value.details["ranges_s"] == [(1.0, 1.48)]


def test_a_covered_mouth_passes_through_with_a_fade_and_a_note(engine, tmp_path, monkeypatch) -> None:
    """Also with `missing_face=fail`: the face is there."""
    faces = [portrait(130, 340, 320, 170 + 4 * np.sin(k / 6), 150) for k in range(50)]
    mouths = np.array([(170 + 4 * np.sin(k / 6), 183) for k in range(50)], np.float32)
    clip = write_clip(tmp_path / "clip.mp4", covered(faces, mouths, 90, "hand", (20, 32), travel=3))
    speech = write_wav(tmp_path / "talk.wav", talk(2.0))
    options = RenderOptions(missing_face="fail")
    watched = render_watched(engine, clip, speech, tmp_path / "result.mp4", monkeypatch, options)
    untouched = np.array([box is None for box in watched.boxes])
    assert untouched[20:32].all()
    assert not untouched[:17].any()
    assert not untouched[35:].any()
    assert watched.inside_change[20:32] == [0.0] * 12
    assert all(watched.outside_equal)
    (note,) = [note for note in watched.report.notes if note.code == "mouth_covered"]
    start, stop = np.flatnonzero(untouched)[[0, -1]]
    assert note.ranges_s == ((start / 25, (stop + 1) / 25),)
    assert watched.report.face_coverage == 1.0
    assert watched.report.faceless_ranges_s == []
    assert np.isfinite(watched.report.face_boxes).all()
    assert (watched.report.mouth_target[untouched] == 0).all()


def test_fade_rises_and_falls() -> None:
    shown = np.array([1] * 10 + [0] * 3 + [1] * 10, bool)
    strength = fade_strength(shown, 4)
    assert (strength[:6] == 1).all()
    assert (np.diff(strength[5:11]) < 0).all()
    assert (strength[10:13] == 0).all()
    assert (np.diff(strength[13:18]) > 0).all()
    assert strength[-1] == 1
    assert faceless_ranges_s(shown, np.arange(23) / 10, 2.3) == [(1.0, 1.3)]


def test_a_line_fades_in_half_the_time_of_a_face_that_appears() -> None:
    frames = np.arange(50)
    strength = effect_strength(frames >= 20, (frames >= 5) & (frames < 45), Fraction(25))
    assert (strength[:20] == 0).all()
    assert ((strength[20:24] > 0) & (strength[20:24] < 1)).all(), "the face appears over 0.16 s"
    assert (strength[24:43] == 1).all()
    assert ((strength[43:45] > 0) & (strength[43:45] < 1)).all(), "the line ends over 0.08 s"
    assert (strength[45:] == 0).all()
    assert (effect_strength(frames >= 0, frames >= 0, Fraction(25)) == 1).all()


@pytest.mark.parametrize(
    "options",
    [RenderOptions(expression="smile"), RenderOptions(upper_face="sad"), RenderOptions(one_shot=True)],
)
def test_what_needs_a_network_is_refused(engine, options, speech, moving_clip, tmp_path) -> None:
    with pytest.raises(OptionUnsupportedError) as caught:
        render_files(engine, moving_clip, speech, tmp_path / "result.mp4", options, ignore_progress)
    assert caught.value.details["option"] in engine.capabilities.unsupported_options
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", ["analyze", "synthesize"])
def test_cancel_stops_at_once_and_leaves_nothing(engine, stage, speech, moving_clip, tmp_path) -> None:
    def cancel(step: Progress) -> None:
        if step.stage == stage and step.done >= 4:
            raise RenderCanceled("enough")

    before = threading.active_count()
    with pytest.raises(RenderCanceled):
        render_files(engine, moving_clip, speech, tmp_path / "result.mp4", RenderOptions(), cancel)
    assert not list(tmp_path.iterdir())
    assert threading.active_count() == before


def test_no_face_is_a_named_error(engine, speech, tmp_path) -> None:
    clip = write_clip(tmp_path / "empty.mp4", [backdrop(320, 240)] * 10)
    with pytest.raises(FaceNotFoundError):
        render_files(engine, clip, speech, tmp_path / "result.mp4", RenderOptions(), ignore_progress)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.mp4"]


def test_output_options_reach_the_file(engine, speech, moving_clip, tmp_path) -> None:
    options = replace(RenderOptions(), output=OutputOptions(crf=28, max_height=160, container="mkv", fps=12.5))
    result = tmp_path / "result.mkv"
    report = render_files(engine, moving_clip, speech, result, options, ignore_progress)
    with av.open(str(result)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (report.width, report.height) == (170, 160)
        assert sum(1 for _ in container.decode(video=0)) == report.frames == 38
        assert "matroska" in container.format.name


def test_a_badge_changes_nothing_but_its_box(engine, speech, moving_clip, tmp_path, monkeypatch) -> None:
    """crf 0 is lossless: what is decoded from the result is what the engine and the badge drew."""
    short = write_wav(tmp_path / "short.wav", talk(0.6))
    options = replace(RenderOptions(), output=OutputOptions(crf=0, badge=True))
    result = tmp_path / "result.mp4"
    watched = render_watched(engine, moving_clip, short, result, monkeypatch, options)
    given, made = (open_video(path, DEFAULT_LIMITS) for path in (moving_clip, result))
    left, top, right, bottom = badge_box(made.info.width, made.info.height)
    for plain, drawn, box in zip(given.frames(), made.frames(), watched.boxes, strict=False):
        for new, old, step in ((drawn.y, plain.y, 1), (drawn.u, plain.u, 2), (drawn.v, plain.v, 2)):
            untouched = np.ones(old.shape, bool)
            untouched[top // step : bottom // step, left // step : right // step] = False
            if box is not None:
                x0, y0, x1, y1 = (v // step for v in box)
                untouched[y0:y1, x0:x1] = False
            np.testing.assert_array_equal(new[untouched], old[untouched])
    measurement = Measurement(result, short, watched.report, reference=moving_clip, has_badge=True)
    (counted,) = measure_all(measurement, ["psnr_outside_face"])
    assert "infinite" in str(counted.reason), "the badge is no error of the picture"
    (blind,) = measure_all(replace(measurement, has_badge=False), ["psnr_outside_face"])
    assert blind.value is not None


def test_same_input_gives_the_same_pictures_twice(engine, speech, moving_clip, tmp_path, monkeypatch) -> None:
    """Compared before the encoder, whose decisions may depend on the timing of its threads."""
    runs = [render_watched(engine, moving_clip, speech, tmp_path / name, monkeypatch) for name in ("a.mp4", "b.mp4")]
    assert runs[0].digests == runs[1].digests
    assert len(set(runs[0].digests)) > 40
