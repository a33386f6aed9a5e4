"""The opening between the lips as two curves, and pixels in the coordinates of the mouth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retalking_core.faces.landmarks import Points

UPPER_INNER, LOWER_INNER = (61, 62, 63), (67, 66, 65)
ARCH = 0.7


@dataclass(frozen=True)
class MouthCurves:
    """The inner contour of a mouth.

    origin: f32 [2] px, middle between the inner corners; along, down: unit axes of the mouth. half_width: px. table:
    f32 [129] px along, corner to corner; middle: f32 [129] px down, the line on which the lips meet; half_gap: f32
    [129] px, zero at both ends.
    """

    origin: NDArray[np.float32]
    along: NDArray[np.float32]
    down: NDArray[np.float32]
    half_width: float
    table: NDArray[np.float32]
    middle: NDArray[np.float32]
    half_gap: NDArray[np.float32]

    def at(self, along: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Middle line and half gap (px) at places along the mouth; beyond the corners the line goes on level."""
        step = (self.table[-1] - self.table[0]) / (len(self.table) - 1)
        place = np.clip((along - self.table[0]) / step, 0, len(self.table) - 1.001).astype(np.float32)
        left = place.astype(np.int32)
        share = place - left
        return tuple(v[left] + (v[left + 1] - v[left]) * share for v in (self.middle, self.half_gap))

    def edges(self, shares: NDArray[np.float32]) -> tuple[Points, Points]:
        """Points on the upper and on the lower edge, f32 [n, 2] px each, at shares -1..1 from corner to corner."""
        along = shares * self.half_width
        middle, half = self.at(along)
        base = self.origin + along[:, None] * self.along
        return base + (middle - half)[:, None] * self.down, base + (middle + half)[:, None] * self.down

    def coordinates(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
        """Picture coordinates (px, any broadcastable shapes) -> along and down the mouth (px)."""
        dx, dy = x - self.origin[0], y - self.origin[1]
        return dx * self.along[0] + dy * self.along[1], dx * self.down[0] + dy * self.down[1]


def mouth_curves(marks: Points, gaps: NDArray[np.float32]) -> MouthCurves:
    """Curves through the inner-lip landmarks (px), with the three given gaps (px) in place of their own."""
    # The model puts the inner corners a little inside the mouth; two fifths of the way to the outer ones meets them.
    corners = marks[[60, 64]] + 0.4 * (marks[[48, 54]] - marks[[60, 64]])
    along = corners[1] - corners[0]
    width = max(float(np.linalg.norm(along)), 1.0)
    along = along / width
    down = np.array([-along[1], along[0]], np.float32)
    origin = corners.mean(axis=0)
    middle = (marks[list(UPPER_INNER)] + marks[list(LOWER_INNER)]) / 2
    centre = np.concatenate([corners[:1], middle, corners[1:]]) - origin
    # Knots in order and apart even on a mouth seen from the side.
    knots = np.maximum.accumulate(centre @ along + np.arange(5) * 1e-3)
    table = np.linspace(knots[0], knots[-1], 129)
    middle_line = smooth_curve(knots, centre @ down, table)
    half_gap = _arched(knots, gaps / 2, table)
    vectors = (v.astype(np.float32) for v in (table, middle_line, half_gap))
    return MouthCurves(origin.astype(np.float32), along.astype(np.float32), down, width / 2, *vectors)


def _arched(knots: NDArray, half_gap: NDArray, table: NDArray) -> NDArray[np.float64]:
    """A rounded arch, (1 - u^2)^0.7 from corner to corner, times a smooth factor through the three inner knots: a plain
    curve through so few points ends in sharp corners."""
    centre, reach = (knots[0] + knots[-1]) / 2, max((knots[-1] - knots[0]) / 2, 1e-3)
    arch = np.clip(1 - ((table - centre) / reach) ** 2, 0, 1) ** ARCH
    at_knots = np.clip(1 - ((knots[1:4] - centre) / reach) ** 2, 0.2, 1) ** ARCH
    return np.maximum(arch * smooth_curve(knots[1:4], half_gap / at_knots, table), 0)


def smooth_curve(knots: NDArray, values: NDArray, places: NDArray) -> NDArray[np.float64]:
    """Cubic Hermite through unevenly spaced knots, slopes by central differences; held level beyond both ends."""
    knots, values = knots.astype(np.float64), values.astype(np.float64)
    rise = np.diff(values) / np.diff(knots)
    slopes = np.concatenate([rise[:1], (values[2:] - values[:-2]) / (knots[2:] - knots[:-2]), rise[-1:]])
    left = np.clip(np.searchsorted(knots, places, side="right") - 1, 0, len(knots) - 2)
    step = (knots[1:] - knots[:-1])[left]
    t = np.clip((places - knots[left]) / step, 0, 1)
    change = (values[1:] - values[:-1])[left]
    bend = step * ((1 - t) * slopes[left] - t * slopes[left + 1]) + (2 * t - 1) * change
    return values[left] + t * change + t * (1 - t) * bend
