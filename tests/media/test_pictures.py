"""Every kind of picture becomes upright, even, square-pixel 8-bit 4:2:0 with its own colors."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from pillow_heif import register_heif_opener

from retalking_core.errors import MediaUnreadableError
from retalking_core.media.limits import MediaLimits
from retalking_core.media.planes import region_to_bgr
from retalking_core.media.reader import open_video
from retalking_core.types import Frame
from tests.media import clips

LIMITS = MediaLimits()


def to_rgb(frame: Frame, path: Path) -> np.ndarray:
    height, width = frame.y.shape
    return region_to_bgr(frame, (0, 0, width, height), open_video(path, LIMITS).info.color)[..., ::-1]


@pytest.mark.parametrize(("rotation", "turns"), [(0.0, 0), (90.0, 1), (180.0, 2), (-90.0, 3)])
def test_rotation_is_applied(tmp_path: Path, rotation: float, turns: int) -> None:
    path = clips.make_video(tmp_path / "clip.mp4", frames=3, rotation_deg=rotation)
    video = open_video(path, LIMITS)
    frame = next(video.frames())
    assert (frame.y == np.rot90(clips.decoded_luma(path)[0], turns)).all()
    assert (video.info.height, video.info.width) == frame.y.shape
    assert video.info.rotation_deg == -turns * 90 % 360


def test_a_mirrored_video_is_mirrored_back(tmp_path: Path) -> None:
    path = clips.make_video(tmp_path / "clip.mp4", frames=2, mirrored=True)
    frame = next(open_video(path, LIMITS).frames())
    assert (frame.y == clips.decoded_luma(path)[0][:, ::-1]).all()


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


QUADRANTS = np.kron(
    np.array([[[200, 40, 40], [40, 180, 40]], [[40, 40, 200], [230, 230, 230]]], np.uint8),
    np.ones((48, 64, 1), np.uint8),
)
# EXIF orientation -> what stands at the top left and the top right when it is upright
UPRIGHT = {1: "RG", 2: "GR", 3: "WB", 4: "BW", 5: "RB", 6: "BR", 7: "WG", 8: "GW"}


def exif_block(orientation: int, kind: int = 3, order: str = "<") -> bytes:
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *([orientation, 0] if kind == 3 else [orientation]))
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, 1)
    return head + struct.pack(order + "HHI", 0x0112, kind, 1) + value + bytes(4)


def corners(path: Path) -> str:
    """Top left and top right of a picture of QUADRANTS, each by the initial of its color."""
    (frame,) = open_video(path, LIMITS).frames()
    rgb = to_rgb(frame, path).astype(int)
    names = dict(zip("RGBW", QUADRANTS[::48, ::64].reshape(4, 3).astype(int), strict=True))
    seen = (rgb[12, 12], rgb[12, -12])
    return "".join(min(names, key=lambda name: np.abs(names[name] - pixel).max()) for pixel in seen)


def save_still(path: Path, orientation: int = 1) -> Path:
    register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(QUADRANTS)
    image.info["exif"] = exif.tobytes()  # of HEIC written as the boxes `irot` and `imir`, which alone count there
    image.save(path, quality=95, **({} if path.suffix == ".heic" else {"exif": exif}))
    return path


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".heic", ".avif"])
def test_a_still_of_any_kind_is_upright(suffix: str, orientation: int, tmp_path: Path) -> None:
    assert corners(save_still(tmp_path / f"still{suffix}", orientation)) == UPRIGHT[orientation]


@pytest.mark.parametrize(("kind", "order"), [(3, ">"), (4, "<"), (4, ">")])
def test_orientation_in_either_byte_order_and_integer_type(kind: int, order: str, tmp_path: Path) -> None:
    """Pillow rewrites the block; here it stands as a camera or an editor wrote it."""
    body = b"Exif\0\0" + exif_block(6, kind, order)
    plain = clips.make_jpeg(tmp_path / "plain.jpg", QUADRANTS).read_bytes()
    path = tmp_path / "still.jpg"
    path.write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:])
    assert corners(path) == UPRIGHT[6]


def test_exif_behind_the_pixels_of_a_large_png(tmp_path: Path) -> None:
    plain = clips.make_png(tmp_path / "plain.png", QUADRANTS).read_bytes()
    pixels = b"".join(clips.png_chunk(b"IDAT", b"") for _ in range(1500))  # 12 MB in chunks of 8 kB have as many
    path = tmp_path / "still.png"
    end = clips.png_chunk(b"IEND", b"")
    path.write_bytes(plain.removesuffix(end) + pixels + clips.png_chunk(b"eXIf", exif_block(6)) + end)
    assert corners(path) == UPRIGHT[6]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".heic", ".avif"])
def test_a_still_that_ends_early_is_refused(suffix: str, tmp_path: Path) -> None:
    """FFmpeg shows the missing part of a JPEG in green, and says nothing."""
    register_heif_opener()
    path = tmp_path / f"still{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    Image.fromarray(noise).save(path, quality=95)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(MediaUnreadableError, match=r"damaged|ends early|decodes"):
        list(open_video(path, LIMITS).frames())


def test_a_jpeg_that_lacks_only_its_last_marker_is_whole(tmp_path: Path) -> None:
    path = save_still(tmp_path / "still.jpg")
    path.write_bytes(path.read_bytes().removesuffix(b"\xff\xd9"))
    assert corners(path) == "RG"


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
def test_every_pixel_format_keeps_its_colors(
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


def test_color_tags_are_told(tmp_path: Path) -> None:
    path = clips.make_video(tmp_path / "clip.mp4", frames=2, color=(9, 9, 16, 2))
    color = open_video(path, LIMITS).info.color
    assert (color.matrix, color.primaries, color.transfer, color.full_range) == (9, 9, 16, True)


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


def test_gray_and_palette_pictures(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(96, dtype=np.uint8) * 2, (64, 1))
    gray = next(open_video(clips.make_png(tmp_path / "gray.png", ramp), LIMITS).frames())
    assert (gray.y == ramp).all()
    assert (gray.u == 128).all()
    palette = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250]], np.uint8)
    indices = np.repeat(np.repeat(np.arange(3, dtype=np.uint8), 32)[None], 64, axis=0)
    path = clips.make_palette_png(tmp_path / "palette.png", indices, palette)
    rgb = to_rgb(next(open_video(path, LIMITS).frames()), path).astype(int)
    assert np.abs(rgb[:, 4:28] - palette[0]).max() <= 4
    assert np.abs(rgb[:, 36:60] - palette[1]).max() <= 4
