"""The visible note: legible, inside its box, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame

from retalking_core.media.encoder import Badge, badge_box
from tests.media import clips
from tests.media.test_writer import render


def planes(picture: VideoFrame) -> list[np.ndarray]:
    whole = picture.to_ndarray()
    height, width = picture.height, picture.width
    luma, chroma = whole[:height], whole[height:].reshape(2, height // 2, width // 2)
    return [luma.copy(), chroma[0].copy(), chroma[1].copy()]


def noise(width: int, height: int) -> VideoFrame:
    samples = np.random.default_rng(3).integers(16, 236, (height * 3 // 2, width), np.uint8)
    return VideoFrame.from_ndarray(samples, format="yuv420p")


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1920, 1080), (1080, 1920), (64, 64), (16, 16), (130, 98)])
@pytest.mark.parametrize("full_range", [False, True])
def test_not_a_sample_outside_the_box_changes(width: int, height: int, full_range: bool) -> None:
    picture = noise(width, height)
    before = planes(picture)
    badge = Badge(width, height, full_range)
    badge.stamp(picture)
    left, top, right, bottom = badge.box
    assert 0 <= left < right <= width
    assert height / 2 <= top < bottom <= height
    assert not any(side % 2 for side in badge.box)
    for plane, old, step in zip(planes(picture), before, (1, 2, 2), strict=True):
        inside = np.zeros(plane.shape, bool)
        inside[top // step : bottom // step, left // step : right // step] = True
        np.testing.assert_array_equal(plane[~inside], old[~inside])
        assert (plane[inside] != old[inside]).mean() > 0.5
        assert plane.min() >= (0 if full_range else 16)


def test_the_letters_stand_out() -> None:
    """White on dark, over the brightest and the darkest picture alike."""
    for level in (16, 126, 235):
        picture = VideoFrame.from_ndarray(np.full((1080 * 3 // 2, 1920), level, np.uint8), format="yuv420p")
        badge = Badge(1920, 1080, False)
        badge.stamp(picture)
        left, top, right, bottom = badge.box
        inside = planes(picture)[0][top:bottom, left:right]
        assert inside.max() >= 230
        assert np.median(inside) <= 90
        assert 0.03 < (inside > 180).mean() < 0.5, "strokes, not a blot"


@pytest.mark.parametrize("max_height", [None, 120])
def test_a_result_with_a_badge_differs_only_there(tmp_path: Path, max_height: int | None) -> None:
    video = clips.make_video(tmp_path / "clip.mp4", frames=6)
    speech = clips.make_wav(tmp_path / "speech.wav", 0.2)
    decoded = []
    for name, wanted in (("plain", False), ("badge", True)):
        render(video, speech, tmp_path / f"{name}.mp4", crf=0, badge=wanted, max_height=max_height)  # crf 0: lossless
        with av.open(str(tmp_path / f"{name}.mp4")) as media:
            decoded.append([planes(frame) for frame in media.decode(video=0)])
    height, width = decoded[0][0][0].shape
    left, top, right, bottom = badge_box(width, height)
    for plain, marked in zip(*decoded, strict=True):
        for one, other, step in zip(plain, marked, (1, 2, 2), strict=True):
            differs = np.argwhere(one != other) * step
            assert len(differs)
            assert (differs >= (top, left)).all()
            assert (differs < (bottom, right)).all()
