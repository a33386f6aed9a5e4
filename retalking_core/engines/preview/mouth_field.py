"""A smooth displacement field over the lower face that carries the landmarks to where they should be.

Thin-plate splines (Bookstein 1989) on a coarse grid. Two fields are solved, because the picture is cut open between
the lips: one that the upper lip belongs to and one that the lower lip and the jaw belong to. Both share every other
point, so they agree outside the mouth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.engines.preview.mouth_curves import mouth_curves
from retalking_core.engines.preview.mouth_shape import MouthShape
from retalking_core.faces.landmarks import INNER_PAIRS
from retalking_core.numerics import smoothstep

# Grid step and border, in units of the face scale.
CELL = 0.07
ROOM_SIDE, ROOM_BELOW = 0.22, 0.42
SHARED = np.array([*range(17), 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 39, 40, 41, 42, 45, 46, 47, 48, 54, 60, 64])
UPPER = np.array([49, 50, 51, 52, 53, 61, 62, 63])
LOWER = np.array([55, 56, 57, 58, 59, 65, 66, 67])
# Between the landmarks and the corners, where the opening is an arch and the straight way between them is not.
EDGE_PLACES = np.array([-0.82, 0.82])
RING = np.array([1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15])
OWN, COMMON = len(UPPER) + len(EDGE_PLACES), len(SHARED) + len(RING)


@dataclass(frozen=True)
class MouthField:
    """Displacements (px, from after to before: source = place + field) on a grid over `box`.

    box: left, top, right, bottom px, even, inside the picture. upper, lower: f32 [ny, nx, 2]; zero on the border. Grid
    points lie at pixel-center positions (i + 0.5) * size / n - 0.5 inside the box, as `cv2.resize` has it.
    """

    box: tuple[int, int, int, int]
    upper: NDArray[np.float32]
    lower: NDArray[np.float32]


def region_box(
    shape: MouthShape, pads: tuple[int, int, int, int], height: int, width: int
) -> tuple[int, int, int, int]:
    """Even box around everything the field may move; pads: top, bottom, left, right px of extra room."""
    marks = np.concatenate([shape.before[:17], shape.after[:17], shape.before[36:48]])
    low, high = marks.min(axis=0), marks.max(axis=0)
    top, bottom, left, right = pads
    x0 = max(0, int(low[0] - ROOM_SIDE * shape.scale - left) // 2 * 2)
    y0 = max(0, int(low[1] - 0.1 * shape.scale - top) // 2 * 2)
    x1 = min(width, int(np.ceil((high[0] + ROOM_SIDE * shape.scale + right) / 2)) * 2)
    y1 = min(height, int(np.ceil((high[1] + ROOM_BELOW * shape.scale + bottom) / 2)) * 2)
    return x0, y0, x1, y1


def solve_field(shape: MouthShape, box: tuple[int, int, int, int]) -> MouthField:
    """The two fields of a plan."""
    places = _grid_places(box, CELL * shape.scale)
    after, moves = _control_points(shape)
    points = after / shape.scale
    flat = places.reshape(-1, 2) / shape.scale
    # What the fields have in common is most of the work: one kernel serves both, since either's points stand together.
    between, to_places = _kernel(points, points), _kernel(flat, points)
    fields = []
    for part in (np.s_[: OWN + COMMON], np.s_[OWN:]):
        weights = _thin_plate(between[part, part], points[part], moves[part])
        by_points, affine = weights[:-3], weights[-3:]
        field = to_places[:, part] @ by_points + (affine[0] + flat @ affine[1:])
        fields.append(field.reshape(places.shape) * _window(*places.shape[:2]))
    return MouthField(box, *fields)


def _control_points(shape: MouthShape) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where points shall be and the way back to where they are, f32 [n, 2] px each: those of the upper lip alone
    (`OWN`), those of both fields (`COMMON`), those of the lower lip alone."""
    gaps = np.array([(shape.before[b] - shape.before[a]) @ shape.down for a, b in INNER_PAIRS])
    new = mouth_curves(shape.after, np.maximum(shape.meeting, 0), EDGE_PLACES).edges()
    old = mouth_curves(shape.before, np.maximum(gaps, 0), EDGE_PLACES).edges()
    ring = _ring(shape)
    after, before = (
        np.concatenate([marks[UPPER], edges[0], marks[SHARED], ring, marks[LOWER], edges[1]])
        for marks, edges in ((shape.after, new), (shape.before, old))
    )
    return after, before - after


def grid_axes(box: tuple[int, int, int, int], rows: int, columns: int) -> tuple[NDArray, NDArray]:
    """Picture places of the grid points over a box: x f32 [columns], y f32 [rows, 1], px."""
    x0, y0, x1, y1 = box
    x = x0 - 0.5 + (np.arange(columns, dtype=np.float32) + 0.5) * ((x1 - x0) / columns)
    y = y0 - 0.5 + (np.arange(rows, dtype=np.float32) + 0.5) * ((y1 - y0) / rows)
    return x, y[:, None]


def _grid_places(box: tuple[int, int, int, int], cell_px: float) -> NDArray[np.float32]:
    """f32 [ny, nx, 2] px."""
    columns, rows = (max(8, round((high - low) / cell_px)) for low, high in zip(box[:2], box[2:], strict=True))
    places = np.empty((rows, columns, 2), np.float32)
    places[..., 0], places[..., 1] = grid_axes(box, rows, columns)
    return places


def _ring(shape: MouthShape) -> NDArray[np.float32]:
    """Points outside the jaw line that must not move: neck or background.

    Farther off below the chin, where the neck has to take up the jaw's way.
    """
    jaw = shape.before[RING]
    center = shape.before[33]
    outward = jaw - center
    outward /= np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-6)
    below = np.clip(outward @ shape.down, 0, 1)[:, None] ** 2
    return jaw + outward * shape.scale * (0.16 + 0.26 * below)


def _thin_plate(
    kernel: NDArray[np.float32], points: NDArray[np.float32], values: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Weights f32 [n + 3, 2] of the surface through values [n, 2] at points [n, 2]: of the kernel at each point, then
    constant, x and y. kernel: between the points. A little regularized against close points."""
    count = len(points)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = kernel
    system.flat[: count * (count + 3) : count + 4] += 1e-4
    system[:count, count], system[:count, count + 1 :] = 1, points
    system[count:, :count] = system[:count, count:].T
    right = np.zeros((count + 3, 2))
    right[:count] = values
    return np.linalg.solve(system, right).astype(np.float32)


def _kernel(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """r^2 log r^2 between points [m, 2] and [n, 2], f32 [m, n]."""
    square = (one[:, :1] - other[:, 0]) ** 2
    square += (one[:, 1:] - other[:, 1]) ** 2
    np.maximum(square, 1e-9, out=square)
    square *= cv2.log(square)
    return square


@lru_cache(maxsize=32)
def _window(rows: int, columns: int) -> NDArray[np.float32]:
    """1 inside, falling smoothly to 0 over the outermost grid points: pixels at the border of the box stay put; f32
    [rows, columns, 1]."""
    ramps = []
    for count in (rows, columns):
        inward = np.minimum(np.arange(count), np.arange(count)[::-1]).astype(np.float32)
        t = np.clip((inward - 1) / 3, 0, 1)
        ramps.append(smoothstep(t))
    return ramps[0][:, None, None] * ramps[1][:, None]
