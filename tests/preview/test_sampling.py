"""Reading a picture where a grid points: the same as blowing the grid up, and only where something moves."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from retalking_core.engines.preview.mouth_render import STILL_PX, moving_window, sample
from retalking_core.numerics import tiled_matmul
from retalking_core.types import Frame

BOX = (20, 10, 180, 150)


def textured_frame() -> Frame:
    noise = np.random.default_rng(3).integers(0, 256, (200, 240), np.uint8)
    luma = cv2.GaussianBlur(noise, (0, 0), 2)
    return Frame(0, luma, luma[::2, ::2].copy(), 255 - luma[::2, ::2])


def bump_grid(rows: int = 14, columns: int = 17) -> np.ndarray:
    """Moves only its middle."""
    grid = np.zeros((rows, columns, 2), np.float32)
    grid[6:9, 7:11] = (3.3, -1.7)
    return grid


def test_sampling_is_what_a_blown_up_grid_gives() -> None:
    frame, grid = textured_frame(), bump_grid()
    x0, y0, x1, y1 = BOX
    full = cv2.resize(grid, (x1 - x0, y1 - y0), interpolation=cv2.INTER_CUBIC)
    places = full + np.dstack(np.meshgrid(np.arange(x0, x1), np.arange(y0, y1))).astype(np.float32)
    expected = cv2.remap(frame.y, places, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    for window in (BOX, (60, 50, 140, 110)):
        luma, chroma = sample(frame, grid, BOX, window)
        inside = np.s_[window[1] - y0 : window[3] - y0, window[0] - x0 : window[2] - x0]
        assert np.abs(luma.astype(int) - expected[inside]).max() <= 1
        assert chroma.shape == (luma.shape[0] // 2, luma.shape[1] // 2, 2)


def test_outside_the_moving_window_nothing_moves() -> None:
    frame, grid = textured_frame(), bump_grid()
    window = moving_window(grid, BOX)
    assert all(side % 2 == 0 for side in window)
    assert BOX[0] < window[0] < window[2] < BOX[2]
    luma, _ = sample(frame, grid, BOX, BOX)
    change = np.abs(luma.astype(int) - frame.y[BOX[1] : BOX[3], BOX[0] : BOX[2]])
    x0, y0, x1, y1 = (side - BOX[k % 2] for k, side in enumerate(window))
    change[y0:y1, x0:x1] = 0
    assert change.mean() < 0.05
    assert change.max() <= 12  # the rim, where cubic interpolation rings by less than a tenth of the motion


@pytest.mark.parametrize("level", [0.0, STILL_PX])
def test_a_grid_that_moves_nothing_has_a_small_window(level: float) -> None:
    x0, y0, x1, y1 = moving_window(np.full((14, 17, 2), level, np.float32), BOX)
    assert (x1 - x0) * (y1 - y0) < 0.02 * (BOX[2] - BOX[0]) * (BOX[3] - BOX[1])


def test_products_in_tiles_are_products() -> None:
    rng = np.random.default_rng(1)
    for one, other in (
        ((80, 401), (401, 300)),
        ((250, 28), (2, 28, 260)),
        ((1, 5), (5, 1)),
        ((3, 300_000), (300_000, 2)),
    ):
        left, right = rng.normal(size=one), rng.normal(size=other)
        np.testing.assert_allclose(tiled_matmul(left, right), left @ right, rtol=1e-9, atol=1e-9)
