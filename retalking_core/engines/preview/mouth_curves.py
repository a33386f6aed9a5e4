"""The opening between the lips as two curves, and pixels in the coordinates of the mouth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.faces.landmarks import Points
from retalking_core.numerics import smoothstep

UPPER_INNER, LOWER_INNER = [61, 62, 63], [67, 66, 65]
OUTER_CORNERS, INNER_CORNERS = [48, 54], [60, 64]
ARCH = 0.7
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

    def coordinates(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
        """Picture coordinates (px, any broadcastable shapes) -> along and down the mouth (px)."""
        dx, dy = x - self.origin[0], y - self.origin[1]
        return dx * self.along[0] + dy * self.along[1], dx * self.down[0] + dy * self.down[1]


def mouth_curves(marks: Points, gaps: NDArray[np.float32], places: NDArray[np.float64] = TABLE) -> MouthCurves:
    """Curves through the inner-lip landmarks (px), with the three given gaps (px) in place of their own.

    places: where along the mouth they are tabulated, ascending, -1..1 from corner to corner.
    """
    # The model puts the inner corners a little inside the mouth; two fifths of the way to the outer ones meets them.
    corners = marks[INNER_CORNERS] + 0.4 * (marks[OUTER_CORNERS] - marks[INNER_CORNERS])
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
    middle, reach = (knots[0] + knots[4]) / 2, max((knots[4] - knots[0]) / 2, 1e-3)
    knots = (knots - middle) / reach
    line = smooth_curve(knots, center @ down, places)
    vectors = (v.astype(np.float32) for v in (middle + reach * places, line, _arched(knots, gaps / 2, places)))
    return MouthCurves(origin.astype(np.float32), along, down, width / 2, *vectors)


def _arched(knots: NDArray, half_gap: NDArray, places: NDArray) -> NDArray[np.float64]:
    """A rounded arch, (1 - u^2)^0.7 from corner to corner, times a smooth factor through the three inner knots: a plain
    curve through so few points ends in sharp corners."""
    at_knots = np.clip(1 - knots[1:4] ** 2, 0.2, 1) ** ARCH
    return np.maximum((1 - places**2) ** ARCH * smooth_curve(knots[1:4], half_gap / at_knots, places), 0)


def smooth_curve(knots: NDArray, values: NDArray, places: NDArray) -> NDArray[np.float64]:
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


def ease(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """0 below 0, 1 above 1, smooth between."""
    t = np.clip(x, 0, 1)
    return smoothstep(t)


def _even(place: float, lowest: int, highest: int) -> int:
    return int(min(max(place, lowest), highest)) // 2 * 2
