"""Frames are the decoded bytes, upright, even and 8-bit; any order gives the same frames as one pass."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from retalking_core.media.colour import region_to_bgr
from retalking_core.media.limits import MediaLimits
from retalking_core.media.reader import VideoReader, open_video
from retalking_core.media.timeline import plan_timeline
from retalking_core.types import Frame
from tests.media import clips

LIMITS = MediaLimits()


def decoded_luma(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as media:
        return [picture.to_ndarray()[: picture.height] for picture in media.decode(video=0)]


def to_rgb(frame: Frame, path: Path) -> np.ndarray:
    height, width = frame.y.shape
    return region_to_bgr(frame, (0, 0, width, height), open_video(path, LIMITS).info.colour)[..., ::-1]


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


@pytest.mark.parametrize("held_frames", [4, 9, 1000])
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


def test_memory_is_bounded_when_run_backwards(tmp_path: Path) -> None:
    path = clips.make_video(tmp_path / "clip.mp4", frames=100)
    video = open_video(path, MediaLimits(max_held_bytes=8 * 96 * 64 * 3 // 2))
    alive: list[int] = []
    counted = _CountingConverter(video)
    for _ in video.frames_at(range(99, -1, -1)):
        alive.append(counted.converted)
    # A block of eight is decoded before its first frame is given out, never more.
    assert alive[0] == 8
    assert max(made - given for given, made in enumerate(alive)) <= 8


class _CountingConverter:
    def __init__(self, video: VideoReader) -> None:
        self.converted = 0
        self._inner = video._converter
        video._converter = self

    def to_frame(self, picture: av.VideoFrame, index: int) -> Frame:
        self.converted += 1
        return self._inner.to_frame(picture, index)


def test_a_long_forward_run_is_not_held(tmp_path: Path) -> None:
    video = open_video(clips.make_video(tmp_path / "clip.mp4", frames=100), MediaLimits(max_held_bytes=1))
    counted = _CountingConverter(video)
    next(video.frames())
    assert counted.converted == 1


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
    assert (frames[0].y == decoded_luma(source)[10]).all()
    assert not video.damaged
    assert same(next(video.frames_at([39])), frames[39])


@pytest.mark.parametrize(("rotation", "turns"), [(0.0, 0), (90.0, 1), (180.0, 2), (-90.0, 3)])
def test_rotation_is_applied(tmp_path: Path, rotation: float, turns: int) -> None:
    path = clips.make_video(tmp_path / "clip.mp4", frames=3, rotation_deg=rotation)
    video = open_video(path, LIMITS)
    frame = next(video.frames())
    assert (frame.y == np.rot90(decoded_luma(path)[0], turns)).all()
    assert (video.info.height, video.info.width) == frame.y.shape
    assert video.info.rotation_deg == -turns * 90 % 360


def test_a_mirrored_video_is_mirrored_back(tmp_path: Path) -> None:
    path = clips.make_video(tmp_path / "clip.mp4", frames=2, mirrored=True)
    frame = next(open_video(path, LIMITS).frames())
    assert (frame.y == decoded_luma(path)[0][:, ::-1]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_a_photo(tmp_path: Path, orientation: int) -> None:
    pixels = clips.gradient_rgb(3, 96, 64)
    stored = next(open_video(clips.make_jpeg(tmp_path / "stored.jpg", pixels), LIMITS).frames()).y
    turned = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].T,
        8: np.rot90(stored, 1),
    }[orientation]
    video = open_video(clips.make_jpeg(tmp_path / "face.jpg", pixels, orientation), LIMITS)
    assert video.info.is_still
    assert (next(video.frames()).y == turned).all()


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "tolerance"),
    [
        ("clip.mp4", "libx264", "yuv420p10le", 4),
        ("clip.mp4", "libx264", "yuv422p", 4),
        ("clip.mp4", "libx264", "yuv444p", 4),
        ("clip.mp4", "libx264", "nv12", 4),
        ("clip.mp4", "libx264rgb", "rgb24", 4),
        ("clip.mp4", "libx265", "yuv420p10le", 4),
        ("clip.mov", "prores_ks", "yuva444p10le", 4),
        ("clip.mov", "qtrle", "rgb24", 4),
        ("clip.mkv", "ffv1", "bgra", 4),
        ("clip.mkv", "ffv1", "yuv444p16le", 4),
        ("clip.webm", "libvpx-vp9", "yuva420p", 5),
        ("clip.webm", "libvpx", "yuv420p", 5),
        ("clip.avi", "mjpeg", "yuvj420p", 5),
    ],
)
def test_every_pixel_format_keeps_its_colours(
    tmp_path: Path, name: str, codec: str, pixel_format: str, tolerance: int
) -> None:
    options = {
        "libx264": {"crf": "4"},
        "libx264rgb": {"crf": "4"},
        "libx265": {"x265-params": "crf=4:log-level=none"},
        "libvpx-vp9": {"crf": "4", "b": "5000000"},
        "libvpx": {"b": "5000000"},
        "mjpeg": {"qmin": "1", "qmax": "2"},
    }.get(codec, {})
    path = clips.make_video(tmp_path / name, 4, codec=codec, pixel_format=pixel_format, options=options)
    frame = list(open_video(path, LIMITS).frames())[3]
    error = to_rgb(frame, path).astype(float) - clips.gradient_rgb(3, 96, 64)
    assert np.abs(error).mean() < tolerance
    assert np.abs(error.mean(axis=(0, 1))).max() < 1.5


@pytest.mark.parametrize("size", [(97, 63), (97, 64), (96, 63)])
def test_odd_sizes_lose_their_last_line(tmp_path: Path, size: tuple[int, int]) -> None:
    path = clips.make_video(tmp_path / "clip.mkv", frames=2, size=size, codec="ffv1")
    video = open_video(path, LIMITS)
    frame = next(video.frames())
    width, height = size[0] // 2 * 2, size[1] // 2 * 2
    assert (video.info.width, video.info.height) == (width, height)
    with av.open(str(path)) as media:
        plane = next(media.decode(video=0)).planes[0]
        stored = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        assert (frame.y == stored[:height, :width]).all()


def test_colour_tags_are_told(tmp_path: Path) -> None:
    path = clips.make_video(tmp_path / "clip.mp4", frames=2, colour=(9, 9, 16, 2))
    colour = open_video(path, LIMITS).info.colour
    assert (colour.matrix, colour.primaries, colour.transfer, colour.full_range) == (9, 9, 16, True)


def test_pixels_that_are_not_square_are_made_square(tmp_path: Path) -> None:
    wide = open_video(clips.make_video(tmp_path / "wide.mp4", frames=2, pixel_aspect=Fraction(4, 3)), LIMITS)
    tall = open_video(clips.make_video(tmp_path / "tall.mp4", frames=2, pixel_aspect=Fraction(1, 2)), LIMITS)
    absurd = open_video(clips.make_video(tmp_path / "absurd.mp4", frames=2, pixel_aspect=Fraction(50)), LIMITS)
    assert (wide.info.width, wide.info.height) == (128, 64)
    assert (tall.info.width, tall.info.height) == (96, 128)
    assert (absurd.info.width, absurd.info.height) == (96, 64)
    assert next(wide.frames()).y.shape == (64, 128)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_a_photo_is_a_video_of_one_frame(tmp_path: Path, kind: str) -> None:
    pixels = clips.gradient_rgb(3, 96, 64)
    make = {"png": clips.make_png, "jpg": clips.make_jpeg, "webp": clips.make_webp}[kind]
    path = make(tmp_path / f"face.{kind}", pixels)
    video = open_video(path, LIMITS, still_fps=29.97)
    assert video.info.is_still
    assert video.info.frame_count == 1
    assert video.info.fps == Fraction(30000, 1001)
    assert [frame.index for frame in video.frames_at([0, 0, 0])] == [0, 0, 0]
    with pytest.raises(IndexError):
        next(video.frames_at([1]))
    error = to_rgb(next(video.frames()), path).astype(float) - pixels
    assert np.abs(error).mean() < 4
    assert np.abs(error.mean(axis=(0, 1))).max() < 1.5


def test_transparent_pixels_are_black_and_half_transparent_ones_half(tmp_path: Path) -> None:
    pixels = np.full((64, 96, 4), 200, np.uint8)
    pixels[:, :32, 3], pixels[:, 32:64, 3], pixels[:, 64:, 3] = 0, 128, 255
    path = clips.make_png(tmp_path / "face.png", pixels)
    rgb = to_rgb(next(open_video(path, LIMITS).frames()), path).astype(int)
    assert np.abs(rgb[:, 4:28]).max() <= 2
    assert np.abs(rgb[:, 36:60] - 100).max() <= 3
    assert np.abs(rgb[:, 68:] - 200).max() <= 3


def test_grey_and_palette_pictures(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(96, dtype=np.uint8) * 2, (64, 1))
    grey = next(open_video(clips.make_png(tmp_path / "grey.png", ramp), LIMITS).frames())
    assert (grey.y == ramp).all()
    assert (grey.u == 128).all()
    palette = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250]], np.uint8)
    indices = np.repeat(np.repeat(np.arange(3, dtype=np.uint8), 32)[None], 64, axis=0)
    path = clips.make_palette_png(tmp_path / "palette.png", indices, palette)
    rgb = to_rgb(next(open_video(path, LIMITS).frames()), path).astype(int)
    assert np.abs(rgb[:, 4:28] - palette[0]).max() <= 4
    assert np.abs(rgb[:, 36:60] - palette[1]).max() <= 4


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
    reference = decoded_luma(path)
    order = plan_timeline(video.info, 13.0, "bounce").source_index
    for frame, index in zip(video.frames_at(order), order, strict=True):
        assert frame.index == index
        assert (frame.y == reference[index]).all()
