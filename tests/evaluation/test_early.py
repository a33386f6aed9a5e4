"""The frames of a result are looked at while it is rendered; every number is that of an evaluation afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from retalking_core.clip_plan import ClipPlan, plan_clip
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.errors import EngineFaultError, RenderCanceled
from retalking_core.evaluation.measurement import EarlyLooks, Measurement
from retalking_core.evaluation.metrics import available_metrics, looks_of, measure_all
from retalking_core.evaluation.scores import measured_curves
from retalking_core.media import tap as tap_module
from retalking_core.media.encoder import GROUP_FRAMES
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.media.speech import read_speech
from retalking_core.media.tap import ResultTap
from retalking_core.media.writer import ResultWriter
from retalking_core.options import OutputOptions, RenderOptions
from retalking_core.progress import Progress, ignore_progress
from retalking_core.types import ColorTags, Timeline
from tests.faces.clips import PictureSource, backdrop, place_face, write_clip
from tests.preview.speech import talk, write_wav

NAMES = available_metrics(None)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A face that drifts, for a second, and 2.8 s of speech: frames are shown forward and backward."""
    folder = tmp_path_factory.mktemp("early")
    pictures = []
    for step in range(25):
        picture = backdrop(320, 240)
        place_face(picture, 120, 150 + step, 120)
        pictures.append(picture)
    return write_clip(folder / "face.mp4", pictures), write_wav(folder / "talk.wav", talk(2.8))


@pytest.fixture
def clip(inputs: tuple[Path, Path]) -> Iterator[ClipPlan]:
    with plan_clip(*inputs, RenderOptions(), DEFAULT_LIMITS) as plan:
        yield plan


def draft_of(clip: ClipPlan, result: Path, **more: object) -> Measurement:
    return Measurement(
        result,
        clip.speech,
        reference=clip.video,
        source_index=clip.timeline.source_index,
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    "options",
    [
        RenderOptions(),
        RenderOptions(output=OutputOptions(max_height=120)),  # pixels cannot be paired
        RenderOptions(output=OutputOptions(container="mkv", badge=True)),
    ],
    ids=["plain", "smaller", "badge"],
)
def test_every_value_and_curve_is_that_of_the_finished_file(
    options: RenderOptions, clip: ClipPlan, tmp_path: Path
) -> None:
    result = tmp_path / f"result.{options.output.container}"
    draft = draft_of(clip, result, has_badge=options.output.badge)
    with EarlyLooks(draft, looks_of(draft, NAMES)) as early:
        report = PreviewEngine().render(replace(clip, tap=early.tap), result, options, ignore_progress)
        beside = replace(draft, report=report, early=early)
        values = measure_all(beside, NAMES)
        curves = measured_curves(beside)
        assert early.tap.read == clip.frames, "the frames were looked at as they were encoded"
        assert {"points", "ssim", "outside", "sharpness"} <= early.findings(beside).keys()
    after = replace(draft, report=report)
    assert [asdict(value) for value in values] == [asdict(value) for value in measure_all(after, NAMES)]
    assert asdict(curves) == asdict(measured_curves(after))


def test_frames_are_looked_at_before_the_render_ends(clip: ClipPlan, tmp_path: Path) -> None:
    """The render waits before its end until the evaluation has seen a frame: x264 holds some 30 back."""
    result, seen = tmp_path / "result.mp4", threading.Event()
    draft = draft_of(clip, result)
    with EarlyLooks(draft, frozenset({"points"})) as early:

        def on_progress(progress: Progress) -> None:
            if progress.stage == "synthesize" and 56 <= progress.done < clip.frames:
                while not seen.wait(0.01):
                    if early.tap.read:
                        seen.set()

        PreviewEngine().render(replace(clip, tap=early.tap), result, RenderOptions(), on_progress)
    assert seen.is_set()


@pytest.mark.parametrize("full_range", [False, True])
def test_the_tap_gives_the_frames_of_the_file(
    full_range: bool, inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over two groups of pictures, through a queue that holds hardly more than a packet."""
    monkeypatch.setattr(tap_module, "WAITING_BYTES", 1)
    noise = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)  # in blocks: single rows look interlaced
    pictures = [np.roll(noise, k, axis=1).repeat(8, axis=0).repeat(8, axis=1) for k in range(GROUP_FRAMES + 9)]
    source = PictureSource(pictures, 25)
    info = replace(source.info, color=ColorTags(matrix=1, primaries=1, transfer=1, full_range=full_range))
    timeline = Timeline(np.arange(len(pictures)), Fraction(25))
    path, tap = tmp_path / "result.mp4", ResultTap()
    found: list[object] = []

    def read() -> None:
        assert tap.open()
        found.extend(frame.copy() for frame in tap.frames())

    reader = threading.Thread(target=read)
    reader.start()
    with (
        read_speech(inputs[1], DEFAULT_LIMITS) as speech,
        ResultWriter(path, info, timeline, speech.sound, OutputOptions(), {}, tap) as writer,
    ):
        for frame in source.frames():
            writer.write(frame)
    reader.join()
    video = open_video(path, DEFAULT_LIMITS)
    assert tap.info.color == video.info.color
    assert (tap.info.width, tap.info.height) == (video.info.width, video.info.height)
    for one, other in zip(found, video.frames(), strict=True):
        assert one.index == other.index
        for plane in ("y", "u", "v"):
            assert np.array_equal(getattr(one, plane), getattr(other, plane))


def test_an_engine_that_knows_no_tap_is_evaluated_afterwards(clip: ClipPlan, tmp_path: Path) -> None:
    result = tmp_path / "result.mp4"
    draft = draft_of(clip, result)
    report = PreviewEngine().render(clip, result, RenderOptions(), ignore_progress)
    with EarlyLooks(draft, looks_of(draft, NAMES)) as early:
        beside = replace(draft, report=report, early=early)
        values = measure_all(beside, NAMES)
    assert values == measure_all(replace(draft, report=report), NAMES)


def test_another_face_than_announced_is_looked_for_again(clip: ClipPlan, tmp_path: Path) -> None:
    result = tmp_path / "result.mp4"
    draft = draft_of(clip, result)
    with EarlyLooks(draft, frozenset({"points"})) as early:
        report = PreviewEngine().render(replace(clip, tap=early.tap), result, RenderOptions(), ignore_progress)
        assert early.findings(replace(draft, report=report)).keys() == {"points"}
        assert early.findings(replace(draft, report=replace(report, face_boxes=None))) == {}


@pytest.mark.parametrize("fault", [RenderCanceled("stop"), EngineFaultError("broken")])
def test_a_render_that_ends_early_ends_the_looks(fault: Exception, clip: ClipPlan, tmp_path: Path) -> None:
    result = tmp_path / "result.mp4"

    def on_progress(progress: Progress) -> None:
        if progress.stage == "synthesize" and progress.done >= 8:
            raise fault

    with pytest.raises(type(fault)), EarlyLooks(draft_of(clip, result), frozenset({"points", "ssim"})) as early:
        PreviewEngine().render(replace(clip, tap=early.tap), result, RenderOptions(), on_progress)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("early-looks")]
    assert not result.exists()


def test_what_the_looks_raise_does_not_reach_the_render(
    clip: ClipPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder goes on, although nobody takes its packets any more; the evaluation raises it afterwards."""
    monkeypatch.setattr(tap_module, "WAITING_BYTES", 1)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("broken")

    monkeypatch.setattr("retalking_core.evaluation.frame_pass.PointFinder.step", broken)
    result = tmp_path / "result.mp4"
    draft = draft_of(clip, result)
    with EarlyLooks(draft, frozenset({"points"})) as early:
        report = PreviewEngine().render(replace(clip, tap=early.tap), result, RenderOptions(), ignore_progress)
        assert result.exists()
        with pytest.raises(ZeroDivisionError):
            measure_all(replace(draft, report=report, early=early), ["face_coverage"])
