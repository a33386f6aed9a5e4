"""One pass for all metrics: the same numbers as each metric alone, each file decoded once, and stopped by its hook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from retalking_core.errors import MediaUnreadableError, RenderCanceled
from retalking_core.evaluation import frames
from retalking_core.evaluation.frames import BgrOfFrames, read_bgr
from retalking_core.evaluation.image_quality import SimilarityMeter, cpbd, similarity, toolkit_gray
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metrics import available_metrics, measure_all
from retalking_core.media import reader
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.media.sources import CachingFrameSource
from retalking_core.progress import Progress
from retalking_core.types import Frame, RenderReport
from tests.evaluation.clips import write_talking_clip
from tests.evaluation.test_protocols import TAGS
from tests.faces.clips import backdrop, portrait
from tests.media.clips import make_video
from tests.preview.speech import talk, write_wav

FRAMES = 14
REPORT = RenderReport("preview", "0", "cpu", FRAMES, Fraction(25), FRAMES / 25, 320, 260, 1.0, [], {})


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A result and what it was made from: a face that drifts; two frames in the middle show none."""
    folder = tmp_path_factory.mktemp("pair")
    speech = write_wav(folder / "talk.wav", talk(1.0))
    pictures = [portrait(120, 320, 260, 150 + number, 130) for number in range(FRAMES)]
    pictures[6] = pictures[7] = backdrop(320, 260)
    darker = [(picture * 0.97).astype(np.uint8) for picture in pictures]
    return write_talking_clip(folder / "a.mp4", darker, speech), write_talking_clip(folder / "b.mp4", pictures, speech)


def measurement(pair: tuple[Path, Path], **changes: object) -> Measurement:
    return replace(Measurement(pair[0], pair[0], reference=pair[1]), **changes)


def test_together_and_alone_give_the_same_numbers(pair: tuple[Path, Path]) -> None:
    names = available_metrics(None)
    together = measure_all(measurement(pair), names)
    assert [value.name for value in together] == names
    for value in together:
        if value.name in ("ssim", "psnr_outside_face", "cpbd", "face_coverage"):
            assert value.value is not None
            assert measure_all(measurement(pair), [value.name]) == [value]


def test_numbers_are_those_of_a_plain_loop(pair: tuple[Path, Path]) -> None:
    found = measurement(pair)
    values = {each.name: each for each in measure_all(found, ["ssim", "psnr_outside_face", "cpbd"])}
    gray = [[toolkit_gray(picture) for picture in read_bgr(path, DEFAULT_LIMITS)] for path in pair]
    plain = [similarity(one, other) for one, other in zip(*gray, strict=True)]
    np.testing.assert_array_equal(found.ssim_per_frame, plain)
    squared, pixels, sharp = 0.0, 0, []
    seen = np.flatnonzero(np.isfinite(found.landmarks[:, 0, 0]))
    chosen = seen[np.linspace(0, len(seen) - 1, 10).round().astype(int)]
    for number, (one, other) in enumerate(zip(*(open_video(p, DEFAULT_LIMITS).frames() for p in pair), strict=True)):
        if number not in seen:
            continue
        low, high = found.landmarks[number].min(axis=0), found.landmarks[number].max(axis=0)
        for margin, outside in ((0.5, True), (0.2, False)):
            left, top = np.maximum(np.floor(low - margin * (high - low)), 0).astype(int)
            right, bottom = np.ceil(high + margin * (high - low)).astype(int)
            if outside:
                mask = np.ones(one.y.shape, bool)
                mask[top:bottom, left:right] = False
                squared += float(((one.y.astype(float) - other.y)[mask] ** 2).sum())
                pixels += int(mask.sum())
            elif number in chosen:
                sharp.append(cpbd(one.y[top:bottom, left:right]))
    assert values["psnr_outside_face"].value == pytest.approx(10 * np.log10(255**2 * pixels / squared), abs=1e-9)
    assert values["cpbd"].value == pytest.approx(np.mean(sharp), abs=1e-12)
    assert len(seen) == FRAMES - 2


def test_each_file_is_decoded_once(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[str] = []
    read, decode = reader.VideoReader.frames_at, frames._decode

    def counted(self: reader.VideoReader, indices: object) -> Iterator[Frame]:
        passes.append(self._path.name)
        return read(self, indices)

    def first_only(path: Path, limits: object) -> Iterator[object]:
        for number, picture in enumerate(decode(path, limits)):
            assert number == 0, "a second decoder ran"
            yield picture

    monkeypatch.setattr(reader.VideoReader, "frames_at", counted)
    monkeypatch.setattr(frames, "_decode", first_only)
    plain = available_metrics(None)
    measure_all(measurement(pair), [name for name in plain if name != "cpbd"])
    assert sorted(passes) == ["a.mp4", "b.mp4"]


def test_frames_that_the_render_holds_are_not_decoded_again(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = available_metrics(None)
    plain = measure_all(measurement(pair), names)
    source = CachingFrameSource(open_video(pair[1], DEFAULT_LIMITS), 1 << 28)
    assert len(list(source.frames())) == FRAMES
    read = reader.VideoReader.frames_at

    def result_only(self: reader.VideoReader, indices: Sequence[int]) -> Iterator[Frame]:
        assert self._path.name == "a.mp4" or len(indices) == 0
        return read(self, indices)

    monkeypatch.setattr(reader.VideoReader, "frames_at", result_only)
    holding = replace(REPORT, held=source.held(pair[1]))
    assert measure_all(measurement(pair, report=holding), names) == plain
    assert CachingFrameSource(open_video(pair[1], DEFAULT_LIMITS), 1000).held(pair[1]) is None


def test_what_a_render_holds_of_another_file_is_left_alone(pair: tuple[Path, Path]) -> None:
    other = CachingFrameSource(open_video(pair[0], DEFAULT_LIMITS), 1 << 28)
    found = measurement(pair, report=replace(REPORT, held=other.held(pair[0])))
    assert found.reference_video is not other


@pytest.mark.parametrize("kind", TAGS)
def test_pictures_made_from_frames_are_those_that_decode(tmp_path: Path, kind: str) -> None:
    path = make_video(tmp_path / "clip.mp4", frames=4, **TAGS[kind])
    source = open_video(path, DEFAULT_LIMITS)
    bgr = BgrOfFrames(path, source.info, DEFAULT_LIMITS)
    assert bgr.is_shared == (kind in ("untagged", "bt709", "full range"))
    for number, (frame, expected) in enumerate(zip(source.frames(), read_bgr(path, DEFAULT_LIMITS), strict=True)):
        np.testing.assert_array_equal(bgr.of(frame) if bgr.is_shared else bgr.decoded(number), expected)
    bgr.close()


def test_pairing_by_plan_leaves_ssim_paired_by_number(pair: tuple[Path, Path]) -> None:
    backwards = np.arange(FRAMES)[::-1].copy()
    names = ["ssim", "psnr_outside_face"]
    plain, turned = (measure_all(measurement(pair, source_index=plan), names) for plan in (None, backwards))
    assert turned[0] == plain[0]
    assert turned[1].value < plain[1].value


def test_a_reference_that_breaks_takes_only_its_own_numbers(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reader.VideoReader.frames_at

    def broken(self: reader.VideoReader, indices: object) -> Iterator[Frame]:
        for frame in read(self, indices):
            if self._path.name == "b.mp4" and frame.index == 5:
                raise MediaUnreadableError("The reference is damaged.")
            yield frame

    monkeypatch.setattr(reader.VideoReader, "frames_at", broken)
    values = {each.name: each for each in measure_all(measurement(pair), available_metrics(None))}
    for name in ("ssim", "psnr_outside_face"):
        assert (values[name].value, values[name].reason) == (None, "The reference is damaged.")
    for name in ("cpbd", "face_coverage", "faceless_s"):
        assert values[name].value is not None, values[name].reason


def test_the_hook_is_told_and_can_stop_it(pair: tuple[Path, Path]) -> None:
    told: list[Progress] = []
    measure_all(measurement(pair, progress=told.append), ["ssim", "face_coverage"])
    fractions = [step.fraction for step in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert {step.stage for step in told} == {"evaluate"}
    assert [step.done for step in told] == [4, 8, 12, FRAMES]

    def stop(step: Progress) -> None:
        if step.done >= 8:
            raise RenderCanceled("enough")

    with pytest.raises(RenderCanceled):
        measure_all(measurement(pair, progress=stop), ["ssim", "face_coverage"])


def test_similarity_does_not_depend_on_the_pair_before() -> None:
    rng = np.random.default_rng(5)
    pictures = rng.integers(0, 256, (4, 40, 50), np.uint8)
    pictures[1] = cv2.GaussianBlur(pictures[0], (3, 3), 0)
    meter = SimilarityMeter((40, 50))
    for one in pictures:
        for other in pictures:
            assert meter(one, other) == similarity(one, other)
    assert meter(pictures[2], pictures[2]) == 1
