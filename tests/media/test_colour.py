"""Regions as BGR and back: right matrix and range, bounded round trip, untouched bytes, speed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retalking_core.media.planes import blend_bgr_into, even_box, region_to_bgr, resolve_matrix
from retalking_core.types import ColorTags, Frame

ROOT = Path(__file__).resolve().parents[2]
BT601, BT709, BT2020 = ColorTags(6), ColorTags(1, 1, 1), ColorTags(9, 9, 14)
FULL_601 = ColorTags(5, full_range=True)


def flat_frame(y: int, u: int, v: int, size: tuple[int, int] = (16, 16)) -> Frame:
    width, height = size
    return Frame(
        0,
        np.full((height, width), y, np.uint8),
        np.full((height // 2, width // 2), u, np.uint8),
        np.full((height // 2, width // 2), v, np.uint8),
    )


def noise_frame(size: tuple[int, int], seed: int = 0) -> Frame:
    """Mild colors, so that every sample has a BGR value inside 0..255."""
    width, height = size
    rng = np.random.default_rng(seed)
    return Frame(
        0,
        rng.integers(90, 160, (height, width), np.uint8),
        rng.integers(110, 146, (height // 2, width // 2), np.uint8),
        rng.integers(110, 146, (height // 2, width // 2), np.uint8),
    )


@pytest.mark.parametrize(
    ("color", "yuv"),
    [  # pure red, by the definitions of BT.601, BT.709, BT.2020 and JFIF
        (BT601, (81, 90, 240)),
        (BT709, (63, 102, 240)),
        (BT2020, (74, 97, 240)),
        (FULL_601, (76, 85, 255)),
    ],
)
def test_red_is_red_in_every_matrix(color: ColorTags, yuv: tuple[int, int, int]) -> None:
    bgr = region_to_bgr(flat_frame(*yuv), (0, 0, 16, 16), color)
    assert np.abs(bgr.astype(int) - (0, 0, 255)).max() <= 2


def test_gray_levels_follow_the_range() -> None:
    assert region_to_bgr(flat_frame(16, 128, 128), (0, 0, 2, 2), BT709).max() == 0
    assert region_to_bgr(flat_frame(235, 128, 128), (0, 0, 2, 2), BT709).min() == 255
    assert region_to_bgr(flat_frame(16, 128, 128), (0, 0, 2, 2), FULL_601).min() == 16


def test_an_unspecified_matrix_follows_the_height() -> None:
    assert resolve_matrix(ColorTags(), 719) == 6
    assert resolve_matrix(ColorTags(), 720) == 1
    assert resolve_matrix(ColorTags(0), 1080) == 1
    assert resolve_matrix(BT2020, 480) == 9


@pytest.mark.parametrize("color", [BT601, BT709, BT2020, FULL_601])
def test_the_round_trip_error_is_bounded(color: ColorTags) -> None:
    frame = noise_frame((64, 48))
    copy = frame.copy()
    box = (8, 4, 60, 44)
    blend_bgr_into(copy, box, region_to_bgr(frame, box, color), None, color)
    assert np.abs(copy.y.astype(int) - frame.y).max() <= 1
    assert np.abs(copy.u.astype(int) - frame.u).max() <= 1
    assert np.abs(copy.v.astype(int) - frame.v).max() <= 1


def test_outside_the_box_and_where_alpha_is_zero_no_byte_changes() -> None:
    frame = noise_frame((64, 48))
    result = frame.copy()
    alpha = np.zeros((32, 40), np.float32)
    alpha[8:20, 10:31] = np.linspace(0.01, 1, 21, dtype=np.float32)
    blend_bgr_into(result, (12, 6, 52, 38), np.full((32, 40, 3), (20, 200, 30), np.uint8), alpha, BT709)
    changed = np.zeros((48, 64), bool)
    changed[6:38, 12:52] = alpha > 0
    blocks = changed.reshape(24, 2, 32, 2).any(axis=(1, 3))
    assert (result.y == frame.y)[~changed].all()
    assert (result.u == frame.u)[~blocks].all()
    assert (result.v == frame.v)[~blocks].all()
    assert (result.y != frame.y)[changed].mean() > 0.9


def test_full_alpha_equals_no_alpha_and_half_alpha_is_the_middle() -> None:
    frame, box = flat_frame(100, 128, 128), (0, 0, 16, 16)
    white = np.full((16, 16, 3), 255, np.uint8)
    whole, replaced, half = frame.copy(), frame.copy(), frame.copy()
    blend_bgr_into(whole, box, white, np.ones((16, 16), np.float32), BT601)
    blend_bgr_into(replaced, box, white, None, BT601)
    blend_bgr_into(half, box, white, np.full((16, 16), 0.5, np.float32), BT601)
    assert (whole.y == replaced.y).all()
    assert (replaced.y == 235).all()
    assert np.abs(half.y.astype(float) - 167.5).max() <= 1


def test_misuse_is_refused() -> None:
    frame = noise_frame((16, 16))
    pixels = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="even"):
        region_to_bgr(frame, (1, 0, 5, 4), BT601)
    with pytest.raises(ValueError, match="inside"):
        region_to_bgr(frame, (0, 0, 18, 4), BT601)
    with pytest.raises(ValueError, match="fit"):
        blend_bgr_into(frame, (0, 0, 6, 4), pixels, None, BT601)
    for plane in (frame.y, frame.u, frame.v):
        plane.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        blend_bgr_into(frame, (0, 0, 4, 4), pixels, None, BT601)


@given(
    st.tuples(*[st.floats(-50, 150) for _ in range(4)]),
    st.integers(1, 60).map(lambda half: half * 2),
    st.integers(1, 60).map(lambda half: half * 2),
)
def test_even_boxes_are_even_and_hold_what_lies_inside(
    box: tuple[float, float, float, float], width: int, height: int
) -> None:
    left, right = sorted((box[0], box[2]))
    top, bottom = sorted((box[1], box[3]))
    sliver = 1e-6
    is_outside = right <= sliver or bottom <= sliver or left >= width - sliver or top >= height - sliver
    if is_outside or right - left < sliver or bottom - top < sliver:
        return
    snapped = even_box((left, top, right, bottom), width, height)
    assert all(side % 2 == 0 for side in snapped)
    assert 0 <= snapped[0] <= max(left, 0)
    assert 0 <= snapped[1] <= max(top, 0)
    assert min(right, width) <= snapped[2] <= width
    assert min(bottom, height) <= snapped[3] <= height


def test_a_box_outside_the_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        even_box((100, 0, 120, 20), 64, 64)


def test_a_400_pixel_region_takes_milliseconds(capsys: pytest.CaptureFixture[str]) -> None:
    frame, box = noise_frame((1920, 1080)), (700, 300, 1100, 700)
    alpha = np.full((400, 400), 0.5, np.float32)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        bgr = region_to_bgr(frame, box, BT709)
        out_ms = _best_ms(lambda: region_to_bgr(frame, box, BT709))
        in_ms = _best_ms(lambda: blend_bgr_into(frame, box, bgr, alpha, BT709))
    finally:
        cv2.setNumThreads(threads)
    with capsys.disabled():
        print(f"\n400x400 region: to BGR {out_ms:.2f} ms, blended back {in_ms:.2f} ms, one core")
    # 2 ms is the goal on an idle core; a shared machine gets five times that before the test fails.
    assert out_ms < 10
    assert in_ms < 10


def _best_ms(call: object) -> float:
    times = []
    for _ in range(20):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times) * 1000


def test_a_conversion_starts_no_thread() -> None:
    """The stack of a thread counts 8 MiB against the memory limit of a worker. Where only less was left, a conversion
    failed with EAGAIN, which names neither the memory nor the input."""
    code = """
import resource
from fractions import Fraction
import av, numpy as np
from retalking_core.media.planes import PictureGeometry, PlaneConverter
from retalking_core.types import ColorTags
from worker.memory import data_bytes
picture = av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), "rgb24")
limit = data_bytes() + (4 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
geometry = PictureGeometry(96, 64, (1, 0, 0, 1), 96, 64, Fraction(1))
print(PlaneConverter(geometry, ColorTags(1, 1, 1)).to_frame(picture, 0).y.shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout == "(64, 96)\n", done.stderr
