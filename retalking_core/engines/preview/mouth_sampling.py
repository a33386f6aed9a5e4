"""Reads a picture's planes at the places that a displacement grid points to, inside any window of the grid's box."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.numerics import product
from retalking_core.types import Frame

Plane = NDArray[np.uint8]
Grid = NDArray[np.float32]
Box = tuple[int, int, int, int]
# Pixels. `cv2.remap` knows 32 places between two pixels: what moves less than half of that stays where it is.
STILL_PX = 1 / 64


def moving_window(grid: Grid, box: Box) -> Box:
    """The part of a box, even, outside which a grid [ny, nx, 2] moves nothing; at least one grid point large."""
    moves = (np.abs(grid).max(axis=2) > STILL_PX).astype(np.uint8)
    left, top, width, height = cv2.boundingRect(moves)
    spans = []
    for first, count, low, high, cells in (
        (left, width, box[0], box[2], grid.shape[1]),
        (top, height, box[1], box[3], grid.shape[0]),
    ):
        # As far as the next grid point, which is still: what cubic interpolation leaves beyond is a tenth of that.
        cell_px = (high - low) / cells
        begin = low + int(max(0.0, (first - 0.5) * cell_px)) // 2 * 2
        end = low + int((first + count + 0.5) * cell_px + 2) // 2 * 2
        spans.append((begin, min(high, end)))
    (x0, x1), (y0, y1) = spans
    return x0, y0, x1, y1


def sample(frame: Frame, grid: Grid, box: Box, window: Box) -> tuple[Plane, Plane]:
    """Luma u8 [h, w] and chroma u8 [h/2, w/2, 2] of an even window, each pixel read where the grid over `box` points.

    grid: f32 [ny, nx, 2], displacements in pixels, at pixel-centre positions (i + 0.5) * size / n - 0.5 of the box.
    """
    luma = cv2.remap(frame.y, *_places(grid, box, window), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    half = _places(grid / 2, *(tuple(side // 2 for side in each) for each in (box, window)))
    planes = [cv2.remap(p, *half, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for p in (frame.u, frame.v)]
    return luma, cv2.merge(planes)


def _places(grid: Grid, box: Box, window: Box) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """x and y of where each pixel of a window comes from, f32 [h, w] px each.

    As `cv2.resize` would blow the grid up, but only inside the window: two products of small matrices.
    """
    x0, y0, x1, y1 = window
    across = cubic_weights(grid.shape[1], box[2] - box[0])[x0 - box[0] : x1 - box[0]]
    down = cubic_weights(grid.shape[0], box[3] - box[1])[y0 - box[1] : y1 - box[1]]
    wide = product(across, np.ascontiguousarray(grid.transpose(2, 1, 0)))
    places = product(down, wide.transpose(0, 2, 1))
    places[0] += np.arange(x0, x1, dtype=np.float32)
    places[1] += np.arange(y0, y1, dtype=np.float32)[:, None]
    return places[0], places[1]


@lru_cache(maxsize=128)
def cubic_weights(cells: int, pixels: int) -> NDArray[np.float32]:
    """Shares of the grid points in each pixel of a line, f32 [pixels, cells]. A face at rest asks for a few only."""
    return cv2.resize(np.eye(cells, dtype=np.float32), (cells, pixels), interpolation=cv2.INTER_CUBIC)
