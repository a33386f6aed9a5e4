"""The opening between the lips as two curves, and the displacement field that moves the lower face.

Thin-plate splines (Bookstein 1989) on a coarse grid. Two fields are solved, because the picture is cut open between the
lips: one for the upper lip, one for the lower lip and the jaw. They share all other control points, so they agree
outside the mouth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.engines.preview.mouth_shape import MouthShape
from retalking_core.faces.landmarks import INNER_PAIRS, Points
from retalking_core.numerics import smoothstep

UPPER_INNER, LOWER_INNER = [61, 62, 63], [67, 66, 65]
OUTER_CORNERS, INNER_CORNERS = [48, 54], [60, 64]
# The model puts the inner corners a little inside the mouth; two fifths of the way to the outer ones meets them.
REACH, ARCH = 0.4, 0.7
# All that may be seen of an open mouth: shut along a narrower outline, it leaves dark pits at the corners.
FULL_REACH, FULL_ARCH = 0.9, 0.5
# Places from corner (-1) to corner (1).
TABLE = np.linspace(-1, 1, 129)
KNOTS_APART = np.arange(5) * 1e-3


@dataclass(frozen=True)
class MouthCurves:
    """The inner contour of a mouth.

    origin: f32 [2] px, middle between the inner corners; along, down: unit axes of the mouth. half_width: px. table:
    f32 [n] px along, corner to corner; middle: f32 [n] px down, the line on which the lips meet; half_gap: f32 [n] px,
    zero at both ends.
    """

    origin: NDArray[np.float32]
    along: NDArray[np.float32]
    down: NDArray[np.float32]
    half_width: float
    table: NDArray[np.float32]
    middle: NDArray[np.float32]
    half_gap: NDArray[np.float32]

    def at(self, along: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Middle line and half gap (px) at places along the mouth, any shape; beyond the corners the line goes on
        level."""
        steps = (len(self.table) - 1) / (self.table[-1] - self.table[0])
        columns = (along - self.table[0]) * steps
        rows = np.zeros_like(columns)
        # remap knows 32 places between two entries, a hundredth of a pixel, in a third of the time of numpy's indexing.
        middle, half_gap = (
            cv2.remap(values[None], columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).reshape(
                along.shape
            )
            for values in (self.middle, self.half_gap)
        )
        return middle, half_gap

    def edges(self) -> tuple[Points, Points]:
        """The upper and the lower edge at the places of the table, f32 [n, 2] px each."""
        base = self.origin + self.table[:, None] * self.along
        return (
            base + (self.middle - self.half_gap)[:, None] * self.down,
            base + (self.middle + self.half_gap)[:, None] * self.down,
        )

    def coordinates(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Picture coordinates (px, any broadcastable shapes) -> along and down the mouth (px)."""
        dx, dy = x - self.origin[0], y - self.origin[1]
        return dx * self.along[0] + dy * self.along[1], dx * self.down[0] + dy * self.down[1]


def mouth_curves(
    marks: Points,
    gaps: NDArray[np.float32],
    places: NDArray[np.float64] = TABLE,
    reach: float = REACH,
    arch: float = ARCH,
) -> MouthCurves:
    """Curves through the inner-lip landmarks (px), with the three given gaps (px) in place of their own.

    places: where along the mouth they are tabulated, ascending, -1..1 from corner to corner. reach: where the corners
    are, 0 the inner landmarks .. 1 the outer ones. arch: exponent of the edge, smaller is fuller toward the corners.
    """
    corners = marks[INNER_CORNERS] + reach * (marks[OUTER_CORNERS] - marks[INNER_CORNERS])
    along = corners[1] - corners[0]
    width = max(float(np.hypot(along[0], along[1])), 1.0)
    along = (along / width).astype(np.float32)
    down = np.array([-along[1], along[0]], np.float32)
    origin = (corners[0] + corners[1]) / 2
    center = np.empty((5, 2))
    center[[0, 4]], center[1:4] = corners, (marks[UPPER_INNER] + marks[LOWER_INNER]) / 2
    center -= origin
    # Knots in order and apart even on a mouth seen from the side.
    knots = np.maximum.accumulate(center @ along + KNOTS_APART)
    middle, half = (knots[0] + knots[4]) / 2, max((knots[4] - knots[0]) / 2, 1e-3)
    knots = (knots - middle) / half
    line = smooth_curve(knots, center @ down, places)
    vectors = (v.astype(np.float32) for v in (middle + half * places, line, _arched(knots, gaps / 2, places, arch)))
    return MouthCurves(origin.astype(np.float32), along, down, width / 2, *vectors)


def _arched(knots: NDArray[Any], half_gap: NDArray[Any], places: NDArray[Any], arch: float) -> NDArray[np.float64]:
    """A rounded arch, (1 - u^2)^arch from corner to corner, times a smooth factor through the three inner knots: a
    plain curve through so few points ends in sharp corners."""
    at_knots = np.clip(1 - knots[1:4] ** 2, 0.2, 1) ** arch
    return np.maximum((1 - places**2) ** arch * smooth_curve(knots[1:4], half_gap / at_knots, places), 0)


def smooth_curve(knots: NDArray[Any], values: NDArray[Any], places: NDArray[Any]) -> NDArray[np.float64]:
    """Cubic Hermite through unevenly spaced knots, slopes by central differences; held level beyond both ends."""
    knots, values = knots.astype(np.float64), values.astype(np.float64)
    steps, changes = knots[1:] - knots[:-1], values[1:] - values[:-1]
    slopes = np.empty_like(values)
    slopes[0], slopes[-1] = changes[0] / steps[0], changes[-1] / steps[-1]
    slopes[1:-1] = (changes[1:] + changes[:-1]) / (steps[1:] + steps[:-1])
    left = knots[1:-1].searchsorted(places, side="right")
    step, change = steps[left], changes[left]
    t = np.minimum(np.maximum((places - knots[left]) / step, 0), 1)
    bend = step * ((1 - t) * slopes[left] - t * slopes[left + 1]) + (2 * t - 1) * change
    return values[left] + t * change + t * (1 - t) * bend


Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class MouthPatch:
    """Full-resolution coordinates of the area around the mouth.

    window: left, top, right, bottom px, even. half_width: of the mouth, px. along: f32 [h, w] px along the mouth;
    offset: px below the line on which the lips meet; half_gap: px from that line to either lip.
    """

    window: Box
    half_width: float
    along: NDArray[np.float32]
    offset: NDArray[np.float32]
    half_gap: NDArray[np.float32]

    def cut(self, window: Box) -> MouthPatch:
        """The same of a smaller window."""
        x0, y0, x1, y1 = (v - o for v, o in zip(window, (*self.window[:2], *self.window[:2]), strict=True))
        inside = np.s_[y0:y1, x0:x1]
        return MouthPatch(window, self.half_width, self.along[inside], self.offset[inside], self.half_gap[inside])


def mouth_patch(box: Box, curves: MouthCurves, room_px: float) -> MouthPatch:
    """The opening and some room around it, inside a box."""
    window = opening_window(box, curves, room_px)
    x0, y0, x1, y1 = window
    xs, ys = np.arange(x0, x1, dtype=np.float32), np.arange(y0, y1, dtype=np.float32)
    along, down = curves.coordinates(xs[None], ys[:, None])
    middle, half_gap = curves.at(along)
    return MouthPatch(window, curves.half_width, along, down - middle, half_gap)


def opening_window(box: Box, curves: MouthCurves, room_px: float) -> Box:
    """Even, around the opening and some room, inside a box. A mouth outside the box leaves a window of two pixels."""
    high, low = (curves.middle - curves.half_gap).min() - room_px, (curves.middle + curves.half_gap).max() + room_px
    reach = curves.half_width + room_px
    corners = np.array([[-reach, high], [reach, high], [-reach, low], [reach, low]], np.float32)
    places = curves.origin + corners @ np.stack([curves.along, curves.down])
    (x0, y0), (x1, y1) = places.min(axis=0).tolist(), (places.max(axis=0) + 2).tolist()
    left, top = (_even(v, first, last - 2) for v, first, last in ((x0, box[0], box[2]), (y0, box[1], box[3])))
    right, bottom = (_even(v, first + 2, last) for v, first, last in ((x1, left, box[2]), (y1, top, box[3])))
    return left, top, right, bottom


def ease(x: NDArray[Any]) -> NDArray[np.float32]:
    """0 below 0, 1 above 1, smooth between."""
    return smoothstep(np.clip(x, 0, 1))


def _even(place: float, lowest: int, highest: int) -> int:
    return int(min(max(place, lowest), highest)) // 2 * 2


# Grid step and border, in units of the face scale.
CELL = 0.07
ROOM_SIDE, ROOM_BELOW = 0.22, 0.42
SHARED = np.array([*range(17), 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 39, 40, 41, 42, 45, 46, 47, 48, 54])
UPPER = np.array([49, 50, 51, 52, 53, 61, 62, 63])
LOWER = np.array([55, 56, 57, 58, 59, 65, 66, 67])
# Between the landmarks and the corners, where the opening is an arch and the straight way between them is not.
EDGE_PLACES = np.array([-0.93, -0.78, 0.78, 0.93])
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


def reach_of(shape: MouthShape) -> float:
    """Where the corners of its opening are, as `mouth_curves` takes it."""
    return REACH + (FULL_REACH - REACH) * shape.sealed


def _control_points(shape: MouthShape) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where points shall be and the way back to where they are, f32 [n, 2] px each: those of the upper lip alone
    (`OWN`), those of both fields (`COMMON`), those of the lower lip alone."""
    gaps = np.array([(shape.before[b] - shape.before[a]) @ shape.down for a, b in INNER_PAIRS])
    reach, arch = reach_of(shape), ARCH + (FULL_ARCH - ARCH) * shape.sealed
    new = mouth_curves(shape.after, np.maximum(shape.meeting, 0), EDGE_PLACES, reach).edges()
    old = mouth_curves(shape.before, np.maximum(gaps, 0), EDGE_PLACES, reach, arch).edges()
    ring = _ring(shape)
    after, before = (
        np.concatenate([marks[UPPER], edges[0], marks[SHARED], ring, marks[LOWER], edges[1]])
        for marks, edges in ((shape.after, new), (shape.before, old))
    )
    return after, before - after


def grid_axes(box: tuple[int, int, int, int], rows: int, columns: int) -> tuple[NDArray[Any], NDArray[Any]]:
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
    ramps: list[NDArray[np.float32]] = []
    for count in (rows, columns):
        inward = np.minimum(np.arange(count), np.arange(count)[::-1]).astype(np.float32)
        ramps.append(ease((inward - 1) / 3))
    return ramps[0][:, None, None] * ramps[1][:, None]
