"""What a render did to the pixels that it had no business with: luma PSNR outside the face."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.faces.landmarks import bounding_box
from retalking_core.types import Frame

# Growth of the box around the 68 points on each side, in its own width and height: forehead, ears and neck are inside.
MARGIN = 0.5


@dataclass(frozen=True)
class OutsideError:
    """squared: sum of squared luma differences outside the face; pixels: how many were compared, on `frames` frames."""

    squared: float
    pixels: int
    frames: int

    @property
    def psnr_db(self) -> float:
        """Infinite for equal pixels."""
        return float("inf") if self.squared == 0 else float(10 * np.log10(255**2 * self.pixels / self.squared))


Box = tuple[int, int, int, int]
"""Left, top, right, bottom px."""


class OutsideMeter:
    """Adds up paired frames of one size. left_out: what was drawn on purpose (a badge), and is not counted."""

    def __init__(self, left_out: Box | None = None) -> None:
        self.error = OutsideError(0.0, 0, 0)
        self._left_out = left_out

    def add(self, one: Frame, other: Frame, marks: NDArray[np.float32]) -> None:
        """marks: f32 [68, 2] px of the result's face."""
        height, width = one.y.shape
        left, top, right, bottom = face_box(marks, width, height)
        around = ((0, 0, width, top), (0, bottom, width, height), (0, top, left, bottom), (right, top, width, bottom))
        squared, pixels = self.error.squared, self.error.pixels
        for box in around:
            for sign, part in ((1, box), (-1, _shared(box, self._left_out))):
                if part is not None:
                    found, count = _squares(one, other, part)
                    squared, pixels = squared + sign * found, pixels + sign * count
        self.error = OutsideError(squared, pixels, self.error.frames + 1)


def _squares(one: Frame, other: Frame, box: Box) -> tuple[float, int]:
    """Sum of squared differences, and how many pixels. Sums of squares of bytes are exact in float64."""
    left, top, right, bottom = box
    part = np.s_[top:bottom, left:right]
    return (cv2.norm(one.y[part], other.y[part], cv2.NORM_L2SQR), one.y[part].size) if one.y[part].size else (0.0, 0)


def _shared(one: Box, other: Box | None) -> Box | None:
    """What lies in both boxes; None where nothing does."""
    if other is None:
        return None
    left, top, right, bottom = (
        max(one[0], other[0]),
        max(one[1], other[1]),
        min(one[2], other[2]),
        min(one[3], other[3]),
    )
    return (left, top, right, bottom) if left < right and top < bottom else None


def face_box(marks: NDArray[np.float32], width: int, height: int, margin: float = MARGIN) -> tuple[int, int, int, int]:
    """Left, top, right, bottom px around 68 points, grown by the margin and cut to the picture."""
    left, top, right, bottom = (float(side) for side in bounding_box(marks))
    grow_x, grow_y = margin * (right - left), margin * (bottom - top)
    return (
        int(np.clip(np.floor(left - grow_x), 0, width)),
        int(np.clip(np.floor(top - grow_y), 0, height)),
        int(np.clip(np.ceil(right + grow_x), 0, width)),
        int(np.clip(np.ceil(bottom + grow_y), 0, height)),
    )
