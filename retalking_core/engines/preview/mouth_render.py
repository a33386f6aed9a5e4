"""Draws one frame: the warped face, cut open along the lips, with the inside of the mouth between them.

The inside is taken from the clip's own widest open mouth, or painted. Works on the decoded YUV planes, without a color
conversion, and only where something moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.engines.preview.mouth_shape import MouthShape
from retalking_core.engines.preview.mouth_warp import (
    CELL,
    MouthCurves,
    MouthField,
    MouthPatch,
    ease,
    grid_axes,
    mouth_curves,
    mouth_patch,
    opening_window,
    reach_of,
)
from retalking_core.faces.landmarks import INNER_PAIRS, Points, face_scale
from retalking_core.numerics import tiled_matmul
from retalking_core.types import Frame

TEXTURE_ROWS, TEXTURE_COLUMNS = 64, 128
FLAT_PLACES = np.linspace(-0.97, 0.97, TEXTURE_COLUMNS)
# Gap (in face scales) from which a frame's own mouth shows enough to be used for all others.
OPEN_ENOUGH = 0.07


@dataclass(frozen=True)
class MouthInterior:
    """The inside of a mouth, flattened: rows from the upper to the lower lip, columns from corner to corner.

    yuv: f32 [rows, columns, 3], 8-bit levels. half_width, gaps (f32 [columns]): its size, in units of the face scale.
    tongue: f32 [3], color of the tongue where it is in front, 8-bit levels. light: mean luma of the skin around it,
    above black. drawn: painted, not taken from the clip.
    """

    yuv: NDArray[np.float32]
    half_width: float
    gaps: NDArray[np.float32]
    tongue: NDArray[np.float32]
    light: float
    drawn: bool


def skin_light(frame: Frame, marks: Points, black: float) -> float:
    """Mean luma above black of both cheeks and the chin: the reference for the mouth's brightness."""
    side = max(1, int(0.08 * float(face_scale(marks))))
    centers = ((marks[48] + marks[4]) / 2, (marks[54] + marks[12]) / 2, (marks[57] + marks[8]) / 2)
    height, width = frame.y.shape
    patches = []
    for x, y in centers:
        left, top = int(min(max(x - side, 0), width - 1)), int(min(max(y - side, 0), height - 1))
        patches.append(cv2.mean(frame.y[top : top + 2 * side, left : left + 2 * side])[0])
    return max(sum(patches) / len(patches) - black, 4.0)


def rank_open_frames(gaps: NDArray[np.float32], closed_gap: float) -> list[int]:
    """Source frames whose mouth is open enough to show its inside, most useful first, at most six.

    gaps: f32 [N] in face scales, NaN where no face. Frames next to an even wider one are preferred to lonely peaks,
    which are more often a landmark error than a mouth.
    """
    known = np.where(np.isnan(gaps), 0, gaps) - closed_gap
    padded = np.pad(known, 1, mode="edge")
    steady = np.minimum(known, np.maximum(padded[:-2], padded[2:]) + 0.02)
    order = np.argsort(-steady)[:6]
    return [int(k) for k in order if steady[k] >= max(OPEN_ENOUGH, 0.88 * steady[order[0]])]


def sharpest(frames: Sequence[Frame], marks: Sequence[Points]) -> int:
    """Which of some frames shows its mouth with the most detail (variance of the Laplacian)."""
    scores = []
    for frame, points in zip(frames, marks, strict=True):
        x0, y0 = np.maximum(points[60:68].min(axis=0).astype(int) - 2, 0)
        x1, y1 = points[60:68].max(axis=0).astype(int) + 3
        scores.append(float(cv2.Laplacian(frame.y[y0:y1, x0:x1], cv2.CV_32F).var()))
    return int(np.argmax(scores))


def take_interior(frame: Frame, marks: Points, down: NDArray[np.float32], black: float) -> MouthInterior:
    """Flatten the open mouth of a frame."""
    scale = float(face_scale(marks))
    gaps = np.array([(marks[low] - marks[up]) @ down for up, low in INNER_PAIRS], np.float32)
    curves = mouth_curves(marks, np.maximum(gaps, 0.5), FLAT_PLACES)
    x, y, columns = _flat_places(curves)
    luma = cv2.remap(frame.y, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    chroma = cv2.merge([frame.u, frame.v])
    chroma = cv2.remap(chroma, (x - 0.5) / 2, (y - 0.5) / 2, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    yuv = _centered(np.dstack([luma, chroma]).astype(np.float32))
    tongue = _tongue_color(yuv, _lower_lip_color(frame, marks), black)
    return MouthInterior(
        yuv, curves.half_width / scale, columns / scale, tongue, skin_light(frame, marks, black), False
    )


def _tongue_color(yuv: NDArray[np.float32], lip: NDArray[np.float64], black: float) -> NDArray[np.float32]:
    """Of the tongue in a flattened mouth, or, where none is seen there, of the lower lip; always less bright than the
    lip, and never as dark as a tongue deep in the mouth."""
    low = yuv[TEXTURE_ROWS // 2 : -TEXTURE_ROWS // 16, TEXTURE_COLUMNS // 4 : -TEXTURE_COLUMNS // 4].reshape(-1, 3)
    light, redness = (low[:, 0] - black) / max(lip[0] - black, 1.0), (low[:, 2] - 128) / max(lip[2] - 128, 1.0)
    is_tongue = (redness > 0.5) & (light > 0.4) & (light < 1.2)
    color = low[is_tongue].mean(axis=0) if is_tongue.mean() > TONGUE_VISIBLE else lip
    darkest, brightest = (black + share * (lip[0] - black) for share in TONGUE_LIGHT)
    return np.array([np.clip(color[0], darkest, brightest), *color[1:]], np.float32)


def _centered(yuv: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shift the picture sideways so that the upper teeth (the bright part of its upper third) are in the middle: on a
    turned head they are not, and on the next frame the head is turned another way."""
    bright = yuv[: TEXTURE_ROWS // 3, :, 0].mean(axis=0)
    bright = np.clip(bright - bright.mean(), 0, None)
    columns = np.arange(TEXTURE_COLUMNS)
    middle = float((bright * columns).sum() / max(float(bright.sum()), 1e-6)) if bright.any() else TEXTURE_COLUMNS / 2
    shift = float(np.clip(middle - (TEXTURE_COLUMNS - 1) / 2, -0.15 * TEXTURE_COLUMNS, 0.15 * TEXTURE_COLUMNS))
    x, y = np.meshgrid((columns + shift).astype(np.float32), np.arange(TEXTURE_ROWS, dtype=np.float32))
    return cv2.remap(yuv, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _flat_places(curves: MouthCurves) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Picture coordinates of the flattened mouth [rows, columns], and its gap per column, px.

    The outermost 3 % at the corners and 6 % at the lips are left out: they are lip as often as mouth.
    """
    rows = np.linspace(-0.88, 0.94, TEXTURE_ROWS, dtype=np.float32)[:, None]
    along, down = curves.table, curves.middle + curves.half_gap * rows
    x = curves.origin[0] + along * curves.along[0] + down * curves.down[0]
    y = curves.origin[1] + along * curves.along[1] + down * curves.down[1]
    return x.astype(np.float32), y.astype(np.float32), 2 * curves.half_gap


def paint_interior(frame: Frame, marks: Points, black: float) -> MouthInterior:
    """A mouth for a clip that never shows one: dark cavity, upper teeth, a tongue, in the light of the face."""
    light = skin_light(frame, marks, black)
    lip = _lower_lip_color(frame, marks)
    t, u = np.meshgrid(np.linspace(0, 1, TEXTURE_ROWS), np.linspace(-1, 1, TEXTURE_COLUMNS), indexing="ij")
    # As dark as the darkest parts of the face (pupils, nostrils): a hazy clip has no black, and so has its mouth.
    dark = max(_darkest(frame, marks), black + 0.14 * light)
    cavity = np.array([dark, 128 + 0.5 * (lip[1] - 128), 128 + 0.65 * (lip[2] - 128)])
    yuv = np.broadcast_to(cavity, (*t.shape, 3)).astype(np.float32).copy()
    tongue = _bump((t - 1.05) / 0.68) * _bump(u / 0.9)
    _mix(yuv, tongue, np.array([black + 0.55 * light, lip[1], lip[2] + 2]))
    # The row of teeth is an arch: its edge hangs lower in the middle, and the side teeth stand in the cheek's shadow.
    edge = 0.36 * (1 - 0.45 * u**2) + 0.012 * np.cos(u * 9.4 * np.pi / 1.1)
    teeth = np.clip((edge - t) / 0.08, 0, 1) * np.clip((0.86 - np.abs(u)) / 0.3, 0, 1)
    shade = (0.72 + 0.28 * np.clip(t / 0.22, 0, 1)) * (1 - 0.38 * u**2)
    groove = 1 - 0.09 * np.exp(-((np.abs((u * 4.7) % 1 - 0.5) / 0.07) ** 2))
    enamel = np.stack([black + 1.1 * light * shade * groove, np.full_like(t, 124), np.full_like(t, 131)], axis=2)
    _mix(yuv, 0.88 * teeth, enamel)
    yuv = cv2.GaussianBlur(yuv.astype(np.float32), (0, 0), 1.2)
    gaps = (0.19 * (1 - u[0] ** 2) ** 0.7).astype(np.float32)
    return MouthInterior(yuv, 0.29, gaps, _tongue_color(yuv, lip, black), light, True)


def _darkest(frame: Frame, marks: Points) -> float:
    """Luma of the darkest 2 % between brows and mouth."""
    x0, y0 = np.maximum(marks[17:60].min(axis=0).astype(int), 0)
    x1, y1 = marks[17:60].max(axis=0).astype(int) + 1
    return float(np.percentile(frame.y[y0:y1, x0:x1], 2))


def _mix(yuv: NDArray[Any], share: NDArray[Any], color: NDArray[Any]) -> None:
    yuv += share[..., None] * (color - yuv)


def _bump(x: NDArray[Any]) -> NDArray[Any]:
    return np.clip(1 - x * x, 0, 1) ** 1.5


def _lower_lip_color(frame: Frame, marks: Points) -> NDArray[np.float64]:
    return _mean_yuv(frame, np.concatenate([marks[56:59], marks[65:68]]))


def _mean_yuv(frame: Frame, points: NDArray[np.float32]) -> NDArray[np.float64]:
    height, width = frame.y.shape
    x = np.clip(points[:, 0].astype(int), 0, width - 1)
    y = np.clip(points[:, 1].astype(int), 0, height - 1)
    return np.array([plane.mean() for plane in (frame.y[y, x], frame.u[y // 2, x // 2], frame.v[y // 2, x // 2])])


Plane = NDArray[np.uint8]
# Gap (face scales) from which the inside of the mouth becomes visible; it is fully visible at twice this gap.
SLIT, SLIT_SHADE = 0.028, 0.6
LEAST_GAP_PX = 0.3
# Share of the lower half of a flattened mouth that must look like tongue. Least and most light of a tongue in front, of
# the lower lip's.
TONGUE_VISIBLE, TONGUE_LIGHT = 0.2, (0.68, 0.85)
# Raised, the tip of the tongue ends at the edge of the upper teeth: this far below the upper lip (face scales), within
# these shares of the gap.
TEETH_LENGTH, TIP_HIGHEST, TIP_LOWEST = 0.07, 0.38, 0.62
# Half width of the tip: of the mouth's half width, and in face scales at most.
TIP_WIDTH, TIP_WIDEST = 0.6, 0.17


def edge_px(scale: float) -> float:
    """Width of the soft edge of the opening."""
    return max(1.2, 0.018 * scale)


def draw_interior(
    luma: Plane,
    chroma: Plane,
    patch: MouthPatch,
    interior: MouthInterior,
    shape: MouthShape,
    light: float,
    black: float,
) -> None:
    """Into the luma [h, w] and chroma [h/2, w/2, 2] of the patch's window. light, black: as `draw_mouth` has them."""
    scale, tuck = shape.scale, shape.tuck
    gap, depth, soft = 2 * patch.half_gap, patch.offset + patch.half_gap, edge_px(scale)
    alpha = np.clip(depth / soft + 0.5, 0, 1) * np.clip((gap - depth) / soft + 0.5, 0, 1)
    alpha *= np.clip(gap / soft, 0, 1) * np.clip((patch.half_width - np.abs(patch.along)) / (0.05 * scale), 0, 1)
    yuv = _read_interior(interior, patch.along, depth, gap, scale, tuck)
    # The upper lip throws a soft shadow on the teeth, and a narrow slit lets in less light.
    lit = (0.8 + 0.2 * np.clip(gap / (0.1 * scale), 0, 1)) * (0.7 + 0.3 * np.clip(depth / (0.045 * scale), 0, 1))
    # A tongue that was bright in a wide-open mouth lies deeper in the dark of a smaller one.
    lit *= 1 - 0.5 * ease(depth / np.maximum(gap, 1e-3)) * np.clip(1 - gap / (interior.gaps.max() * scale), 0, 1)
    lit += tuck * np.maximum(0.9 - lit, 0)
    if shape.tongue > 0:
        _raise_tongue(yuv, lit, patch, interior.tongue, scale, shape.tongue)
    bright = black + (yuv[..., 0] - black) * lit * (light / interior.light)
    # A narrow slit shows no detail: it is the lips' own color in shadow, and becomes a mouth as it widens; except at f
    # and v, where the teeth are right behind it.
    seen = ease((gap / scale - SLIT * (1 - tuck)) / SLIT)
    under = luma.astype(np.float32)
    shadow = black + (under - black) * SLIT_SHADE
    bright = shadow + (bright - shadow) * seen
    luma[...] = np.clip(under + (bright - under) * alpha + 0.5, 0, 255)
    size = (chroma.shape[1], chroma.shape[0])
    share = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA) * cv2.resize(seen, size, interpolation=cv2.INTER_AREA)
    color = cv2.resize(yuv, size, interpolation=cv2.INTER_AREA)[..., 1:]
    chroma[...] = np.clip(chroma + (color - chroma) * share[..., None] + 0.5, 0, 255)


def _raise_tongue(
    yuv: NDArray[np.float32],
    lit: NDArray[Any],
    patch: MouthPatch,
    color: NDArray[np.float32],
    scale: float,
    raised: float,
) -> None:
    """Put the tip of the tongue in front of what the interior shows, into its colors and light.

    A blunt dome that stands on the lower lip: with `raised` 1 it ends at the upper teeth, darker there, in their
    shadow, and toward its sides.
    """
    bottom = float(patch.half_gap.max())
    gap = 2 * bottom
    top = min(max(TEETH_LENGTH * scale, TIP_HIGHEST * gap), TIP_LOWEST * gap)
    height = max(raised * (gap - top), 1e-3)
    u = patch.along / min(TIP_WIDTH * patch.half_width, TIP_WIDEST * scale)
    up = (bottom - patch.offset) / height
    edge = edge_px(scale) / height
    dome = np.sqrt(np.clip(1 - np.abs(u) ** 2.5, 0, 1))
    share = ease((dome - up) / (2 * edge) + 0.5) * ease((1.05 - np.abs(u)) / 0.3) * min(1.0, 2 * raised)
    shade = (0.7 + 0.3 * ease((dome - up) / 0.5)) * (1 - 0.3 * u**2) * (1 - 0.06 * np.exp(-((u / 0.12) ** 2)))
    _mix(yuv, share, color)
    lit += share * (shade - lit)


def _read_interior(
    interior: MouthInterior, along: NDArray[Any], depth: NDArray[Any], gap: NDArray[Any], scale: float, tuck: float
) -> NDArray[np.float32]:
    """Interior colors for each pixel of the patch, f32 [h, w, 3].

    Teeth keep their size: below the upper lip the picture is read at its own scale from the top, above the lower lip
    from the bottom, and what does not fit into a smaller gap is left out in between. A wider gap stretches it. A lower
    lip at the upper teeth (tuck) hides all but them.
    """
    rows, columns = interior.yuv.shape[:2]
    column = np.clip((along * (1 / (0.97 * scale * interior.half_width)) + 1) / 2, 0, 1) * (columns - 1)
    level = np.zeros_like(column)
    own = cv2.remap(interior.gaps[None], column, level, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) * scale
    own, gap = np.maximum(own, 1.0), np.maximum(gap, 1e-3)
    share = np.clip(depth / gap, 0, 1)
    from_bottom = (1 - tuck) * ease((share - 0.4) / 0.5)
    fitted = (1 - from_bottom) * np.clip(depth / own, 0, 1) + from_bottom * np.clip(1 - (gap - depth) / own, 0, 1)
    row = np.where(gap >= own, share, fitted) * (rows - 1)
    return cv2.remap(interior.yuv, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


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
    half = _places((grid / 2).astype(np.float32), _halved(box), _halved(window))
    planes = [cv2.remap(p, *half, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for p in (frame.u, frame.v)]
    return luma, cv2.merge(planes)


def _halved(box: Box) -> Box:
    left, top, right, bottom = (side // 2 for side in box)
    return left, top, right, bottom


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
    curves = mouth_curves(shape.after, shape.gaps, reach=reach_of(shape))
    patch = mouth_patch(field.box, curves, MOUTH_ROOM * shape.scale)
    blended = field.upper + (field.lower - field.upper) * _coarse_weight(field, curves, shape.scale)[..., None]
    window = box_around(moving_window(blended, field.box), patch.window)
    luma, chroma = sample(frame, blended, field.box, window)
    _draw_lips(frame, *_inside(luma, chroma, patch.window, window), field, patch, shape)
    if 2 * float(curves.half_gap.max()) >= LEAST_GAP_PX:
        inner = patch.cut(opening_window(patch.window, curves, edge_px(shape.scale)))
        draw_interior(*_inside(luma, chroma, inner.window, window), inner, interior, shape, light, black)
    return _put_back(frame, window, luma, chroma, strength)


def _coarse_weight(field: MouthField, curves: MouthCurves, scale: float) -> NDArray[np.float32]:
    """Share of the lower field at the grid points, f32 [ny, nx]."""
    along, down = curves.coordinates(*grid_axes(field.box, *field.upper.shape[:2]))
    middle, _ = curves.at(along)
    return _lower_weight(along, down - middle, curves.half_width, CELL * scale)


def _lower_weight(along: NDArray[Any], offset: NDArray[Any], half_width: float, least_px: float) -> NDArray[np.float32]:
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
    depth = LIP_LINE_DEPTH * shape.was_open * np.sqrt(np.clip(1 - (patch.along / patch.half_width) ** 2, 0, 1))
    width = max(0.9, 0.011 * shape.scale)
    return 1 - depth * np.exp(-((patch.offset / width) ** 2))


def box_around(one: Box, other: Box) -> Box:
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
