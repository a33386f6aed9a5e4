"""The area around a mouth, pixel by pixel, in the mouth's own coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retalking_core.engines.preview.mouth_curves import MouthCurves

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
    return t * t * (3 - 2 * t)


def _even(place: float, lowest: int, highest: int) -> int:
    return int(min(max(place, lowest), highest)) // 2 * 2
