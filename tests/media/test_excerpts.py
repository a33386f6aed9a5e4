"""Poster and preview of a result."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.media.speech import read_speech
from retalking_core.media.tap import PREVIEW_S, Excerpts, ResultTap, fitted, write_poster, write_preview
from retalking_core.media.writer import ResultWriter
from retalking_core.options import OutputOptions
from retalking_core.types import Timeline
from tests.media.clips import gradient_rgb, make_video, make_wav


def test_the_poster_is_the_middle_picture(tmp_path: Path) -> None:
    result = make_video(tmp_path / "r.mp4", frames=40, size=(192, 128), speech_s=1.6)
    write_poster(result, tmp_path / "poster.jpg")
    with Image.open(tmp_path / "poster.jpg") as poster:
        assert (poster.format, poster.size) == ("JPEG", (192, 128))
        shown = np.asarray(poster.convert("RGB"), np.float64)
    errors = [np.abs(gradient_rgb(number, 192, 128) - shown).mean() for number in range(40)]
    assert int(np.argmin(errors)) in (19, 20, 21)
    assert min(errors) < 6


@pytest.mark.parametrize("speech_s", [6.0, None])
@pytest.mark.parametrize("name", ["r.mp4", "r.mkv"])
def test_the_preview_is_small_and_short(tmp_path: Path, speech_s: float | None, name: str) -> None:
    quick = {"preset": "ultrafast"}
    result = make_video(tmp_path / name, frames=150, size=(640, 480), options=quick, speech_s=speech_s)
    write_preview(result, tmp_path / "preview.mp4")
    with av.open(str(tmp_path / "preview.mp4")) as media:
        pictures = [frame.time for frame in media.decode(video=0)]
        assert (media.streams.video[0].width, media.streams.video[0].height) == (360, 270)
    assert len(pictures) == PREVIEW_S * 25
    assert pictures == sorted(pictures)
    with av.open(str(tmp_path / "preview.mp4")) as media:
        assert bool(media.streams.audio) == (speech_s is not None)
        if speech_s is not None:
            sound_s = sum(frame.samples / frame.sample_rate for frame in media.decode(audio=0))
            assert abs(sound_s - PREVIEW_S) < 0.1
    assert (tmp_path / "preview.mp4").stat().st_size < result.stat().st_size


def test_a_short_result_is_its_own_length(tmp_path: Path) -> None:
    result = make_video(tmp_path / "r.mp4", frames=3, size=(64, 48))
    write_preview(result, tmp_path / "preview.mp4")
    write_poster(result, tmp_path / "poster.jpg")
    with av.open(str(tmp_path / "preview.mp4")) as media:
        assert len(list(media.decode(video=0))) == 3


def write_result(folder: Path, excerpts: Excerpts) -> Path:
    """150 frames of 6 s with speech, written with the excerpts watching."""
    speech = make_wav(folder / "speech.wav", seconds=6.0)
    source = open_video(make_video(folder / "face.mp4", frames=150, size=(480, 320)), DEFAULT_LIMITS)
    timeline, result, tap = Timeline(np.arange(150), Fraction(25)), folder / "result.mp4", ResultTap(excerpts)
    tap.close()  # nobody reads the packets
    with (
        read_speech(speech, DEFAULT_LIMITS) as track,
        ResultWriter(result, source.info, timeline, track.sound, OutputOptions(), {}, tap) as writer,
    ):
        for frame in source.frames():
            writer.write(frame)
    return result


def pictures_of(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as media:
        return [frame.to_ndarray(format="gray") for frame in media.decode(video=0)]


def test_excerpts_are_made_of_the_pictures_as_they_are_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They show what those of the finished file show, and no picture of the file is read."""
    with Excerpts(tmp_path / "poster", tmp_path / "preview") as excerpts:
        result = write_result(tmp_path, excerpts)
        with monkeypatch.context() as patched:
            patched.delattr("retalking_core.media.tap.write_poster")
            patched.delattr("retalking_core.media.tap.write_preview")
            assert excerpts.finish(result) == [excerpts.poster, excerpts.preview]
    write_preview(result, tmp_path / "later.mp4")
    write_poster(result, tmp_path / "later.jpg")
    made, later = pictures_of(excerpts.preview), pictures_of(tmp_path / "later.mp4")
    assert len(made) == len(later) == PREVIEW_S * 25
    assert max(np.abs(one - other.astype(np.float64)).mean() for one, other in zip(made, later, strict=True)) < 3
    with av.open(str(excerpts.preview)) as media:
        assert abs(sum(frame.samples / frame.sample_rate for frame in media.decode(audio=0)) - PREVIEW_S) < 0.1
    posters = [np.asarray(Image.open(path), np.float64) for path in (excerpts.poster, tmp_path / "later.jpg")]
    assert np.abs(posters[0] - posters[1]).mean() < 3


def test_pictures_that_cannot_be_used_do_not_cost_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The excerpts are then read from the file."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with Excerpts(tmp_path / "poster", tmp_path / "preview") as excerpts:
        with monkeypatch.context() as patched:
            patched.setattr("retalking_core.media.tap.save_poster", full)
            patched.setattr("retalking_core.media.tap.PreviewClip.add", full)
            result = write_result(tmp_path, excerpts)
        assert excerpts.finish(result) == [excerpts.poster, excerpts.preview]
    assert len(pictures_of(excerpts.preview)) == PREVIEW_S * 25


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [
        ((4096, 2304), 960, (960, 540)),
        ((100, 50), 960, (100, 50)),
        ((51, 101), 1000, (50, 100)),
        ((5000, 3), 100, (100, 2)),
    ],
)
def test_fitted(size: tuple[int, int], longest: int, expected: tuple[int, int]) -> None:
    width, height = fitted(*size, longest)
    assert (abs(width - expected[0]), abs(height - expected[1])) <= (2, 2)
    assert width % 2 == height % 2 == 0
