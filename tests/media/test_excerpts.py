"""Poster and preview of a result."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from retalking_core.media.excerpts import PREVIEW_S, fitted, write_poster, write_preview
from tests.media.clips import gradient_rgb, make_video


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
    result = make_video(tmp_path / name, frames=150, size=(640, 480), speech_s=speech_s)
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
