"""Draws one frame: the warped face, cut open along the lips, with the inside of the mouth between them.

Works on the decoded YUV planes themselves, so nothing is lost to a colour conversion, and only inside the field's box.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.stages.mouth_curves import MouthCurves, mouth_curves
from retalking_core.stages.mouth_field import CELL, MouthField
from retalking_core.stages.mouth_interior import MouthInterior
from retalking_core.stages.mouth_shape import MouthShape
from retalking_core.types import Frame

Plane = NDArray[np.uint8]
Box = tuple[int, int, int, int]
# Room around the mouth, in face scales, that is drawn lip by lip; the rest of the region moves as one.
MOUTH_ROOM = 0.12
LIP_LINE_DEPTH = 0.32
# Gap (face scales) from which the inside of the mouth begins to be made out; at twice this it is seen in full.
SLIT, SLIT_SHADE = 0.028, 0.6


@dataclass(frozen=True)
class MouthPatch:
    """Full-resolution coordinates of the area around the mouth.

    window: left, top, right, bottom px, even, inside the region. along, down, middle, half_gap: f32 [h, w] px.
    """

    window: Box
    along: NDArray[np.float32]
    down: NDArray[np.float32]
    middle: NDArray[np.float32]
    half_gap: NDArray[np.float32]

    def slices(self, box: Box) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Where the window lies in the luma and in the half-size chroma of a box."""
        x0, y0, x1, y1 = (v - o for v, o in zip(self.window, (box[0], box[1], box[0], box[1]), strict=True))
        return (slice(y0, y1), slice(x0, x1)), (slice(y0 // 2, y1 // 2), slice(x0 // 2, x1 // 2))


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
    weight = _coarse_weight(field, curves, shape.scale)
    blended = field.upper + (field.lower - field.upper) * weight[..., None]
    luma, chroma = _sample(frame, _to_source(blended, field.box, field.box))
    patch = _mouth_patch(field.box, curves, shape.scale)
    _draw_lips(frame, luma, chroma, field, patch, curves.half_width, shape)
    _draw_interior(luma, chroma, field.box, patch, interior, curves.half_width, shape.scale, light, black)
    return _put_back(frame, field.box, luma, chroma, strength)


def _to_source(grid: NDArray[np.float32], box: Box, window: Box) -> NDArray[np.float32]:
    """Displacement grid over a box -> where each pixel of a window in it comes from, f32 [h, w, 2], picture places."""
    x0, y0, x1, y1 = window
    # The corner is added before the grid is blown up: interpolation keeps a constant.
    grid = grid + np.array([x0, y0], np.float32)
    if window == box:
        source = cv2.resize(grid, (x1 - x0, y1 - y0), interpolation=cv2.INTER_CUBIC)
    else:
        sx, sy = grid.shape[1] / (box[2] - box[0]), grid.shape[0] / (box[3] - box[1])
        place = np.array([[sx, 0, (x0 - box[0] + 0.5) * sx - 0.5], [0, sy, (y0 - box[1] + 0.5) * sy - 0.5]])
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        source = cv2.warpAffine(grid, place, (x1 - x0, y1 - y0), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    source += _places(1 << (y1 - y0 - 1).bit_length(), 1 << (x1 - x0 - 1).bit_length())[: y1 - y0, : x1 - x0]
    return source


@lru_cache(maxsize=4)
def _places(height: int, width: int) -> NDArray[np.float32]:
    """x and y of every pixel, f32 [h, w, 2]. Asked for in few sizes, so that it is there already."""
    return np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), axis=2)


def _sample(frame: Frame, source: NDArray[np.float32]) -> tuple[Plane, Plane]:
    """Luma u8 [h, w] and chroma u8 [h/2, w/2, 2] read at the source places of an even area."""
    luma = cv2.remap(frame.y, source, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    half = cv2.resize(source, (source.shape[1] // 2, source.shape[0] // 2), interpolation=cv2.INTER_AREA)
    half = (half - 0.5) / 2
    planes = [cv2.remap(p, half, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for p in (frame.u, frame.v)]
    return luma, cv2.merge(planes)


def _lower_weight(along: NDArray, offset: NDArray, half_width: float, least_px: float) -> NDArray[np.float32]:
    """Share of the lower field, 0..1, `offset` px below the line of the lips.

    A hard step inside the mouth, softer and softer beyond its corners, where both fields agree anyway.
    """
    soft = least_px + 0.8 * np.maximum(np.abs(along) - 0.96 * half_width, 0)
    return _ease(offset / (2 * soft) + 0.5).astype(np.float32)


def _coarse_weight(field: MouthField, curves: MouthCurves, scale: float) -> NDArray[np.float32]:
    x0, y0, x1, y1 = field.box
    ny, nx = field.upper.shape[:2]
    xs = x0 + (np.arange(nx, dtype=np.float32) + 0.5) * ((x1 - x0) / nx) - 0.5
    ys = y0 + (np.arange(ny, dtype=np.float32) + 0.5) * ((y1 - y0) / ny) - 0.5
    along, down = curves.coordinates(xs[None], ys[:, None])
    middle, _ = curves.at(along)
    return _lower_weight(along, down - middle, curves.half_width, CELL * scale)


def _mouth_patch(box: Box, curves: MouthCurves, scale: float) -> MouthPatch:
    room = MOUTH_ROOM * scale
    reach = np.array([curves.half_width + room, np.abs(curves.middle).max() + curves.half_gap.max() + room])
    extent = np.abs(np.stack([curves.along, curves.down], axis=1)) @ reach
    x0, y0 = (int(max(low, v)) // 2 * 2 for low, v in zip(box[:2], curves.origin - extent, strict=True))
    x1, y1 = (int(min(high, v + 2)) // 2 * 2 for high, v in zip(box[2:], curves.origin + extent, strict=True))
    xs, ys = np.arange(x0, x1, dtype=np.float32), np.arange(y0, y1, dtype=np.float32)
    along, down = curves.coordinates(xs[None], ys[:, None])
    middle, half_gap = curves.at(along)
    return MouthPatch((x0, y0, x1, y1), along, down, middle, half_gap)


def _draw_lips(
    frame: Frame,
    luma: Plane,
    chroma: Plane,
    field: MouthField,
    patch: MouthPatch,
    half_width: float,
    shape: MouthShape,
) -> None:
    """Upper and lower lip, each from its own field, meeting on the middle line."""
    inside, halves = patch.slices(field.box)
    offset = patch.down - patch.middle
    weight = _lower_weight(patch.along, offset, half_width, max(0.6, 0.004 * shape.scale))
    (upper_y, upper_c), (lower_y, lower_c) = (
        _sample(frame, _to_source(grid, field.box, patch.window)) for grid in (field.upper, field.lower)
    )
    mixed = _lerp(upper_y, lower_y, weight)
    line = _lip_line(patch, offset, half_width, shape)
    luma[inside] = np.clip(mixed * line + 0.5, 0, 255)
    half_weight = cv2.resize(weight, upper_c.shape[1::-1], interpolation=cv2.INTER_AREA)
    chroma[halves] = np.clip(_lerp(upper_c, lower_c, half_weight[..., None]) + 0.5, 0, 255)


def _lip_line(patch: MouthPatch, offset: NDArray, half_width: float, shape: MouthShape) -> NDArray[np.float32]:
    """Luma factor of the shadow where lips meet that were apart; lips that were closed bring their own."""
    was_open = float(np.clip(shape.gaps_before.max() / (0.06 * shape.scale), 0, 1))
    depth = LIP_LINE_DEPTH * was_open * np.clip(1 - (patch.along / half_width) ** 2, 0, 1) ** 0.5
    width = max(0.9, 0.011 * shape.scale)
    return (1 - depth * np.exp(-((offset / width) ** 2))).astype(np.float32)


def _draw_interior(
    luma: Plane,
    chroma: Plane,
    box: Box,
    patch: MouthPatch,
    interior: MouthInterior,
    half_width: float,
    scale: float,
    light: float,
    black: float,
) -> None:
    """The inside of the mouth between the curves of the lips, softly edged."""
    gap = 2 * patch.half_gap
    if float(gap.max()) < 0.3:
        return
    inside, halves = patch.slices(box)
    depth = patch.down - patch.middle + patch.half_gap
    soft = max(1.2, 0.018 * scale)
    alpha = np.clip(depth / soft + 0.5, 0, 1) * np.clip((gap - depth) / soft + 0.5, 0, 1)
    alpha *= np.clip(gap / soft, 0, 1) * np.clip((half_width - np.abs(patch.along)) / (0.05 * scale), 0, 1)
    yuv = _read_interior(interior, patch, depth, gap, scale)
    # The upper lip throws a soft shadow on the teeth, and a narrow slit lets in less light.
    lit = (0.8 + 0.2 * np.clip(gap / (0.1 * scale), 0, 1)) * (0.7 + 0.3 * np.clip(depth / (0.045 * scale), 0, 1))
    # A tongue that was bright in a wide-open mouth lies deeper in the dark of a smaller one.
    lit *= 1 - 0.5 * _ease(depth / np.maximum(gap, 1e-3)) * np.clip(1 - gap / (interior.gaps.max() * scale), 0, 1)
    bright = black + (yuv[..., 0] - black) * lit * (light / interior.light)
    # Through a slit nothing can be made out: it is the lips' own colour in shadow, and becomes a mouth as it widens.
    seen = _ease((gap / scale - SLIT) / SLIT)
    shadow = black + (luma[inside] - black) * SLIT_SHADE
    bright = _lerp(shadow, bright, seen)
    luma[inside] = np.clip(_lerp(luma[inside], bright, alpha) + 0.5, 0, 255)
    size = (alpha.shape[1] // 2, alpha.shape[0] // 2)
    half_alpha = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)[..., None]
    half_colour = cv2.resize(np.ascontiguousarray(yuv[..., 1:]), size, interpolation=cv2.INTER_AREA)
    half_alpha = half_alpha * cv2.resize(seen.astype(np.float32), size, interpolation=cv2.INTER_AREA)[..., None]
    chroma[halves] = np.clip(_lerp(chroma[halves], half_colour, half_alpha) + 0.5, 0, 255)


def _read_interior(
    interior: MouthInterior, patch: MouthPatch, depth: NDArray, gap: NDArray, scale: float
) -> NDArray[np.float32]:
    """Interior colours for each pixel of the patch, f32 [h, w, 3].

    Teeth keep their size: below the upper lip the picture is read at its own scale from the top, above the lower lip
    from the bottom, and what does not fit into a smaller gap is left out in between. A wider gap stretches it.
    """
    rows, columns = interior.yuv.shape[:2]
    column = np.clip((patch.along / scale / interior.half_width / 0.97 + 1) / 2, 0, 1) * (columns - 1)
    own = np.maximum(np.interp(column, np.arange(columns), interior.gaps) * scale, 1.0)
    gap = np.maximum(gap, 1e-3)
    share = np.clip(depth / gap, 0, 1)
    from_bottom = _ease((share - 0.4) / 0.5)
    fitted = (1 - from_bottom) * np.clip(depth / own, 0, 1) + from_bottom * np.clip(1 - (gap - depth) / own, 0, 1)
    row = np.where(gap >= own, share, fitted) * (rows - 1)
    return cv2.remap(
        interior.yuv,
        column.astype(np.float32),
        row.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _ease(x: NDArray) -> NDArray:
    """0 below 0, 1 above 1, smooth between."""
    t = np.clip(x, 0, 1)
    return t * t * (3 - 2 * t)


def _lerp(one: NDArray, other: NDArray, share: NDArray) -> NDArray[np.float32]:
    return one + (other - one.astype(np.float32)) * share


def _put_back(frame: Frame, box: Box, luma: Plane, chroma: Plane, strength: float) -> Frame:
    result = frame.copy()
    x0, y0, x1, y1 = box
    for plane, new, step in ((result.y, luma, 1), (result.u, chroma[..., 0], 2), (result.v, chroma[..., 1], 2)):
        area = plane[y0 // step : y1 // step, x0 // step : x1 // step]
        area[...] = new if strength >= 1 else np.round(_lerp(area, new, strength)).astype(np.uint8)
    return result
