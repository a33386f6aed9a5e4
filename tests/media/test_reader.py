"""Frames are the decoded bytes, upright, even and 8-bit; any order gives the same frames as one pass."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from retalking_core.clip_plan import plan_timeline
from retalking_core.media.limits import MediaLimits
from retalking_core.media.planes import PlaneConverter
from retalking_core.media.reader import open_video
from retalking_core.types import Frame
from tests.media import clips

LIMITS = MediaLimits()


def same(left: Frame, right: Frame) -> bool:
    return left.index == right.index and all(
        (getattr(left, plane) == getattr(right, plane)).all() for plane in ("y", "u", "v")
    )


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.mov", "clip.avi"])
def test_planes_are_the_decoded_bytes(tmp_path: Path, name: str) -> None:
    path = clips.make_video(tmp_path / name, frames=30, options={"bf": "2", "g": "8"})
    video = open_video(path, LIMITS)
    with av.open(str(path)) as media:
        for frame, picture in zip(video.frames(), media.decode(video=0), strict=True):
            assert np.concatenate([frame.y.ravel(), frame.u.ravel(), frame.v.ravel()]).tobytes() == (
                picture.to_ndarray().tobytes()
            )
    assert video.info.frame_count == 30
    assert video.info.fps == 25
    assert video.info.duration_s == pytest.approx(1.2)
    assert not video.damaged


@pytest.mark.parametrize("held_frames", [6, 1000])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi", "clip.webm"])
def test_any_order_gives_the_frames_of_one_pass(tmp_path: Path, name: str, held_frames: int) -> None:
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    path = clips.make_video(tmp_path / name, frames=60, codec=codec, options={"g": "12"})
    frame_bytes = 96 * 64 * 3 // 2
    video = open_video(path, MediaLimits(max_held_bytes=held_frames * frame_bytes))
    ordered = list(video.frames())
    rng = np.random.default_rng(3)
    orders = {
        "backwards": list(range(59, -1, -1)),
        "bounce": plan_timeline(video.info, 7.0, "bounce").source_index,
        "loop": plan_timeline(video.info, 7.0, "loop").source_index,
        "repeats": [5, 5, 5, 40, 40, 2, 2],
        "random": rng.integers(0, 60, 40),
        "sparse": [0, 30, 59, 31, 1],
        "empty": [],
    }
    for name_of_order, order in orders.items():
        given = list(video.frames_at(order))
        assert len(given) == len(order), name_of_order
        assert all(same(frame, ordered[index]) for frame, index in zip(given, order, strict=True)), name_of_order


def test_a_number_outside_the_video_is_refused(tmp_path: Path) -> None:
    video = open_video(clips.make_video(tmp_path / "clip.mp4", frames=5), LIMITS)
    for numbers in ([5], [-1]):
        with pytest.raises(IndexError):
            next(video.frames_at(numbers))


def test_memory_is_bounded_when_run_backwards(tmp_path: Path, conversions: list[int]) -> None:
    path = clips.make_video(tmp_path / "clip.mp4", frames=100)
    video = open_video(path, MediaLimits(max_held_bytes=8 * 96 * 64 * 3 // 2))
    alive: list[int] = []
    for _ in video.frames_at(range(99, -1, -1)):
        alive.append(len(conversions))
    # A block of eight is decoded before its first frame is given out, never more.
    assert alive[0] == 8
    assert max(made - given for given, made in enumerate(alive)) <= 8


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the pictures that were decoded and converted so far."""
    made: list[int] = []
    convert = PlaneConverter.to_frame

    def counted(self: PlaneConverter, picture: av.VideoFrame, index: int) -> Frame:
        made.append(index)
        return convert(self, picture, index)

    monkeypatch.setattr(PlaneConverter, "to_frame", counted)
    return made


def test_a_long_forward_run_is_not_held(tmp_path: Path, conversions: list[int]) -> None:
    video = open_video(clips.make_video(tmp_path / "clip.mp4", frames=100), MediaLimits(max_held_bytes=1))
    next(video.frames())
    assert conversions == [0]


def test_two_passes_side_by_side(tmp_path: Path) -> None:
    video = open_video(clips.make_video(tmp_path / "clip.mp4", frames=30, pixel_format="yuv444p"), LIMITS)
    backwards = list(video.frames_at(range(29, -1, -1)))
    for forward, number in zip(video.frames(), video.frames_at(range(29, -1, -1)), strict=True):
        assert same(forward, backwards[29 - forward.index])
        assert same(number, backwards[29 - number.index])


def test_the_times_of_a_variable_rate_are_kept(tmp_path: Path) -> None:
    for name in ("clip.mp4", "clip.mkv"):
        video = open_video(clips.make_variable_rate(tmp_path / name), LIMITS)
        steps_ms = np.round(np.diff(video.info.frame_times_s) * 1000).astype(int)
        assert set(steps_ms) == {33, 67}
        assert video.info.frame_times_s[0] == 0
        assert float(video.info.fps) == pytest.approx(31 / 1.703, rel=0.03)


def test_an_edit_list_leaves_out_what_a_player_leaves_out(tmp_path: Path) -> None:
    """Cutting without re-encoding keeps the pictures before the cut in the file and hides them."""
    source = clips.make_video(tmp_path / "whole.mp4", frames=50, options={"g": "25", "bf": "0", "sc_threshold": "0"})
    path = tmp_path / "cut.mp4"
    with av.open(str(source)) as media, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(media.streams.video[0])
        for packet in media.demux(video=0):
            if packet.dts is None:
                continue
            shift = round(10 / 25 / packet.time_base)
            packet.pts -= shift
            packet.dts -= shift
            packet.stream = stream
            out.mux(packet)
    video = open_video(path, LIMITS)
    frames = list(video.frames())
    assert video.info.frame_count == 40
    assert len(frames) == 40
    assert (frames[0].y == clips.decoded_luma(source)[10]).all()
    assert not video.damaged
    assert same(next(video.frames_at([39])), frames[39])


def test_a_damaged_frame_is_replaced_by_the_one_before_and_counted(tmp_path: Path) -> None:
    path = clips.make_damaged_video(tmp_path / "clip.mov", [5, 6, 20])
    video = open_video(path, LIMITS)
    frames = list(video.frames())
    assert [frame.index for frame in frames] == list(range(40))
    assert video.damaged == {5, 6, 20}
    assert (frames[6].y == frames[4].y).all()
    assert (frames[7].y != frames[4].y).any()
    again = list(video.frames_at([7, 6, 5, 4]))
    assert all(same(frame, frames[frame.index]) for frame in again)


def test_a_damaged_beginning_shows_the_first_good_frame(tmp_path: Path) -> None:
    video = open_video(clips.make_damaged_video(tmp_path / "clip.mov", [0, 1]), LIMITS)
    frames = list(video.frames())
    assert (frames[0].y == frames[2].y).all()
    assert video.damaged == {0, 1}


def test_a_video_of_one_frame(tmp_path: Path) -> None:
    video = open_video(clips.make_video(tmp_path / "clip.mp4", frames=1), LIMITS)
    assert video.info.frame_count == 1
    assert len(list(video.frames())) == 1


@pytest.mark.media
def test_the_shared_clip_reads_the_same_in_any_order(shared_media: Path) -> None:
    path = shared_media / "1.mp4"
    video = open_video(path, MediaLimits(max_held_bytes=20 * 700 * 700 * 3 // 2))
    assert video.info.fps == Fraction(1350, 61)
    assert video.info.frame_count == 135
    assert video.info.duration_s == pytest.approx(6.1)
    reference = clips.decoded_luma(path)
    order = plan_timeline(video.info, 13.0, "bounce").source_index
    for frame, index in zip(video.frames_at(order), order, strict=True):
        assert frame.index == index
        assert (frame.y == reference[index]).all()
