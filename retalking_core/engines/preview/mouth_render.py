"""Draws one frame: the warped face, cut open along the lips, with the inside of the mouth between them.

Works on the decoded YUV planes, so that no color conversion loses precision, and only where something moves."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.engines.preview.mouth_curves import (
    MouthCurves,
    MouthPatch,
    ease,
    mouth_curves,
    mouth_patch,
    opening_window,
)
from retalking_core.engines.preview.mouth_field import CELL, MouthField, grid_axes
from retalking_core.engines.preview.mouth_interior import LEAST_GAP_PX, MouthInterior, draw_interior, edge_px
from retalking_core.engines.preview.mouth_shape import MouthShape
from retalking_core.numerics import tiled_matmul
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

    grid: f32 [ny, nx, 2], displacements in pixels, at pixel-center positions (i + 0.5) * size / n - 0.5 of the box.
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
    wide = tiled_matmul(across, np.ascontiguousarray(grid.transpose(2, 1, 0)))
    places = tiled_matmul(down, wide.transpose(0, 2, 1))
    places[0] += np.arange(x0, x1, dtype=np.float32)
    places[1] += np.arange(y0, y1, dtype=np.float32)[:, None]
    return places[0], places[1]


@lru_cache(maxsize=128)
def cubic_weights(cells: int, pixels: int) -> NDArray[np.float32]:
    """Shares of the grid points in each pixel of a line, f32 [pixels, cells]. A face at rest asks for a few only."""
    return cv2.resize(np.eye(cells, dtype=np.float32), (cells, pixels), interpolation=cv2.INTER_CUBIC)


# Room around the mouth, in face scales, that is drawn lip by lip; the rest of the region moves as one.
MOUTH_ROOM = 0.12
LIP_LINE_DEPTH = 0.32


def draw_mouth(
    frame: Frame,
    shape: MouthShape,
    field: MouthField,
    interior: MouthInterior,
    light: float,
    black: float,
    strength: float,
) -> Frame:
    """A new frame with the planned mouth; bytes outside `field.box` are those of `frame`.

    light: skin luma above black in this frame. strength: 0 (the frame as it was) .. 1.
    """
    curves = mouth_curves(shape.after, shape.gaps)
    patch = mouth_patch(field.box, curves, MOUTH_ROOM * shape.scale)
    blended = field.upper + (field.lower - field.upper) * _coarse_weight(field, curves, shape.scale)[..., None]
    window = _around(moving_window(blended, field.box), patch.window)
    luma, chroma = sample(frame, blended, field.box, window)
    _draw_lips(frame, *_inside(luma, chroma, patch.window, window), field, patch, shape)
    if 2 * float(curves.half_gap.max()) >= LEAST_GAP_PX:
        inner = patch.cut(opening_window(patch.window, curves, edge_px(shape.scale)))
        draw_interior(*_inside(luma, chroma, inner.window, window), inner, interior, shape.scale, light, black)
    return _put_back(frame, window, luma, chroma, strength)


def _coarse_weight(field: MouthField, curves: MouthCurves, scale: float) -> NDArray[np.float32]:
    """Share of the lower field at the grid points, f32 [ny, nx]."""
    along, down = curves.coordinates(*grid_axes(field.box, *field.upper.shape[:2]))
    middle, _ = curves.at(along)
    return _lower_weight(along, down - middle, curves.half_width, CELL * scale)


def _lower_weight(along: NDArray, offset: NDArray, half_width: float, least_px: float) -> NDArray[np.float32]:
    """Share of the lower field, 0..1, `offset` px below the line of the lips.

    A hard step inside the mouth, softer and softer beyond its corners, where both fields agree anyway.
    """
    soft = least_px + 0.8 * np.maximum(np.abs(along) - 0.96 * half_width, 0)
    return ease(offset / (2 * soft) + 0.5)


def _draw_lips(
    frame: Frame, luma: Plane, chroma: Plane, field: MouthField, patch: MouthPatch, shape: MouthShape
) -> None:
    """Upper and lower lip, each from its own field, meeting on the middle line. luma, chroma: of the patch."""
    weight = _lower_weight(patch.along, patch.offset, patch.half_width, max(0.6, 0.004 * shape.scale))
    (upper_y, upper_c), (lower_y, lower_c) = (
        sample(frame, grid, field.box, patch.window) for grid in (field.upper, field.lower)
    )
    mixed = cv2.blendLinear(upper_y, lower_y, 1 - weight, weight)
    luma[...] = cv2.multiply(mixed, _lip_line(patch, shape), dtype=cv2.CV_8U)
    half_weight = cv2.resize(weight, (chroma.shape[1], chroma.shape[0]), interpolation=cv2.INTER_AREA)
    chroma[...] = cv2.blendLinear(upper_c, lower_c, 1 - half_weight, half_weight)


def _lip_line(patch: MouthPatch, shape: MouthShape) -> NDArray[np.float32]:
    """Luma factor of the shadow where lips meet that were apart; lips that were closed bring their own."""
    was_open = min(max(float(shape.gaps_before.max()) / (0.06 * shape.scale), 0.0), 1.0)
    depth = LIP_LINE_DEPTH * was_open * np.sqrt(np.clip(1 - (patch.along / patch.half_width) ** 2, 0, 1))
    width = max(0.9, 0.011 * shape.scale)
    return 1 - depth * np.exp(-((patch.offset / width) ** 2))


def _around(one: Box, other: Box) -> Box:
    """The smallest box around both."""
    return (min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3]))


def _inside(luma: Plane, chroma: Plane, part: Box, window: Box) -> tuple[Plane, Plane]:
    """Views of a part of the window that the planes show."""
    x0, y0, x1, y1 = (v - o for v, o in zip(part, (*window[:2], *window[:2]), strict=True))
    return luma[y0:y1, x0:x1], chroma[y0 // 2 : y1 // 2, x0 // 2 : x1 // 2]


def _put_back(frame: Frame, window: Box, luma: Plane, chroma: Plane, strength: float) -> Frame:
    result = frame.copy()
    x0, y0, x1, y1 = window
    for plane, new, step in ((result.y, luma, 1), (result.u, chroma[..., 0], 2), (result.v, chroma[..., 1], 2)):
        area = plane[y0 // step : y1 // step, x0 // step : x1 // step]
        area[...] = new if strength >= 1 else cv2.addWeighted(area, 1 - strength, new, strength, 0)
    return result
