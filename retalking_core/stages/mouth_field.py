"""A smooth displacement field over the lower face that carries the landmarks to where they should be.

Thin-plate splines (Bookstein 1989) on a coarse grid. Two fields are solved, because the picture is cut open between
the lips: one that the upper lip belongs to and one that the lower lip and the jaw belong to. Both share every other
point, so they agree outside the mouth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retalking_core.faces.landmarks import INNER_PAIRS
from retalking_core.stages.mouth_curves import mouth_curves
from retalking_core.stages.mouth_shape import MouthShape

# Grid step and border, in units of the face scale.
CELL = 0.07
ROOM_SIDE, ROOM_BELOW = 0.22, 0.42
SHARED = np.array([*range(17), 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 39, 40, 41, 42, 45, 46, 47, 48, 54, 60, 64])
UPPER = np.array([49, 50, 51, 52, 53, 61, 62, 63])
LOWER = np.array([55, 56, 57, 58, 59, 65, 66, 67])
# Between the landmarks and the corners, where the opening is an arch and the straight way between them is not.
EDGE_SHARES = np.array([-0.82, 0.82], np.float32)
RING = np.array([1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15])


@dataclass(frozen=True)
class MouthField:
    """Displacements (px, from after to before: source = place + field) on a grid over `box`.

    box: left, top, right, bottom px, even, inside the picture. upper, lower: f32 [ny, nx, 2]; zero on the border. Grid
    points lie at pixel-centre positions (i + 0.5) * size / n - 0.5 inside the box, as `cv2.resize` has it.
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
    flat = places.reshape(-1, 2) / shape.scale
    window = _window(places.shape[:2])[..., None]
    gaps = (shape.meeting, np.array([(shape.before[b] - shape.before[a]) @ shape.down for a, b in INNER_PAIRS]))
    edges = [
        mouth_curves(marks, np.maximum(gap, 0)).edges(EDGE_SHARES)
        for marks, gap in zip((shape.after, shape.before), gaps, strict=True)
    ]
    # What both fields have in common is most of the work: the way from these points to every place of the grid.
    shared = np.concatenate([shape.after[SHARED] / shape.scale, _ring(shape) / shape.scale])
    shared_moves = np.zeros_like(shared)
    shared_moves[: len(SHARED)] = shape.before[SHARED] - shape.after[SHARED]
    shared_kernel = _kernel(flat, shared)
    fields = []
    for side, part in enumerate((UPPER, LOWER)):
        after = np.concatenate([shape.after[part], edges[0][side]])
        moves = np.concatenate([shape.before[part], edges[1][side]]) - after
        own = (after / shape.scale).astype(np.float32)
        weights = _thin_plate(np.concatenate([shared, own]), np.concatenate([shared_moves, moves]))
        by_shared, by_own, affine = np.split(weights, (len(shared), len(shared) + len(own)))
        field = shared_kernel @ by_shared + _kernel(flat, own) @ by_own + (affine[0] + flat @ affine[1:])
        fields.append((field.reshape(places.shape) * window).astype(np.float32))
    return MouthField(box, *fields)


def _grid_places(box: tuple[int, int, int, int], cell_px: float) -> NDArray[np.float32]:
    x0, y0, x1, y1 = box
    nx, ny = (max(8, round(side / cell_px)) for side in (x1 - x0, y1 - y0))
    xs = x0 + (np.arange(nx, dtype=np.float32) + 0.5) * ((x1 - x0) / nx) - 0.5
    ys = y0 + (np.arange(ny, dtype=np.float32) + 0.5) * ((y1 - y0) / ny) - 0.5
    return np.stack(np.meshgrid(xs, ys), axis=2)


def _ring(shape: MouthShape) -> NDArray[np.float32]:
    """Points outside the jaw line that must not move: neck or background.

    Farther off below the chin, where the neck has to take up the jaw's way.
    """
    jaw = shape.before[RING]
    centre = shape.before[33]
    outward = jaw - centre
    outward /= np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-6)
    below = np.clip(outward @ shape.down, 0, 1)[:, None] ** 2
    return jaw + outward * shape.scale * (0.16 + 0.26 * below)


def _thin_plate(points: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights f32 [n + 3, 2] of the surface through values [n, 2] at points [n, 2]: of the kernel at each point, then
    constant, x and y. A little regularised against close points."""
    count = len(points)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = _kernel(points, points) + 1e-4 * np.eye(count)
    system[:count, count], system[:count, count + 1 :] = 1, points
    system[count:, :count] = system[:count, count:].T
    right = np.zeros((count + 3, 2))
    right[:count] = values
    return np.linalg.solve(system, right).astype(np.float32)


def _kernel(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    square = one @ (-2 * other.T)
    square += (one**2).sum(1)[:, None]
    square += (other**2).sum(1)
    np.maximum(square, 1e-9, out=square)
    square *= np.log(square)
    return square


def _window(size: tuple[int, int]) -> NDArray[np.float32]:
    """1 inside, falling smoothly to 0 over the outermost grid points: pixels at the border of the box stay put."""
    ramps = []
    for count in size:
        inward = np.minimum(np.arange(count), np.arange(count)[::-1]).astype(np.float32)
        t = np.clip((inward - 1) / 3, 0, 1)
        ramps.append(t * t * (3 - 2 * t))
    return ramps[0][:, None] * ramps[1][None, :]
