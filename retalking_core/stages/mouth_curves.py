"""The opening between the lips as two curves, and pixels in the coordinates of the mouth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retalking_core.faces.landmarks import Points

UPPER_INNER, LOWER_INNER = (60, 61, 62, 63, 64), (60, 67, 66, 65, 64)


@dataclass(frozen=True)
class MouthCurves:
    """The inner contour of a mouth.

    origin: f32 [2] px, middle between the inner corners; along, down: unit axes of the mouth. half_width: px. knots:
    f32 [5] px along; middle: f32 [5] px down, the line on which the lips meet; half_gap: f32 [5] px, zero at both
    ends.
    """

    origin: NDArray[np.float32]
    along: NDArray[np.float32]
    down: NDArray[np.float32]
    half_width: float
    knots: NDArray[np.float32]
    middle: NDArray[np.float32]
    half_gap: NDArray[np.float32]

    def at(self, along: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Middle line and half gap (px) at places along the mouth; beyond the corners the line goes on level."""
        table = np.linspace(self.knots[0], self.knots[-1], 129)
        middle = np.interp(along, table, smooth_curve(self.knots, self.middle, table))
        half = np.interp(along, table, np.maximum(smooth_curve(self.knots, self.half_gap, table), 0))
        return middle.astype(np.float32), half.astype(np.float32)

    def coordinates(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
        """Picture coordinates (px, any broadcastable shapes) -> along and down the mouth (px)."""
        dx, dy = x - self.origin[0], y - self.origin[1]
        return dx * self.along[0] + dy * self.along[1], dx * self.down[0] + dy * self.down[1]


def mouth_curves(marks: Points, gaps: NDArray[np.float32]) -> MouthCurves:
    """Curves through the inner-lip landmarks (px), with the three given gaps (px) in place of their own."""
    corners = marks[[60, 64]]
    along = corners[1] - corners[0]
    width = max(float(np.linalg.norm(along)), 1.0)
    along = along / width
    down = np.array([-along[1], along[0]], np.float32)
    origin = corners.mean(axis=0)
    upper, lower = marks[list(UPPER_INNER)] - origin, marks[list(LOWER_INNER)] - origin
    centre = (upper + lower) / 2
    # Knots in order and apart even on a mouth seen from the side.
    knots = np.maximum.accumulate(centre @ along + np.arange(5) * 1e-3)
    half_gap = np.concatenate([[0], gaps / 2, [0]])
    return MouthCurves(
        origin.astype(np.float32),
        along.astype(np.float32),
        down,
        width / 2,
        knots.astype(np.float32),
        (centre @ down).astype(np.float32),
        half_gap.astype(np.float32),
    )


def smooth_curve(knots: NDArray, values: NDArray, places: NDArray) -> NDArray[np.float64]:
    """Cubic Hermite through unevenly spaced knots, slopes by central differences."""
    knots, values = knots.astype(np.float64), values.astype(np.float64)
    slopes = np.gradient(values, knots)
    right = np.clip(np.searchsorted(knots, places, side="right"), 1, len(knots) - 1)
    left = right - 1
    step = knots[right] - knots[left]
    t = np.clip((places - knots[left]) / step, 0, 1)
    bend = step * ((1 - t) * slopes[left] - t * slopes[right]) + (2 * t - 1) * (values[right] - values[left])
    return (1 - t) * values[left] + t * values[right] + t * (1 - t) * bend
