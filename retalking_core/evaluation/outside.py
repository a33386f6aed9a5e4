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


class OutsideMeter:
    """Adds up paired frames of one size."""

    def __init__(self) -> None:
        self.error = OutsideError(0.0, 0, 0)

    def add(self, one: Frame, other: Frame, marks: NDArray[np.float32]) -> None:
        """marks: f32 [68, 2] px of the result's face."""
        height, width = one.y.shape
        left, top, right, bottom = face_box(marks, width, height)
        around = (np.s_[:top, :], np.s_[bottom:, :], np.s_[top:bottom, :left], np.s_[top:bottom, right:])
        squared, pixels = self.error.squared, self.error.pixels
        for part in around:
            if one.y[part].size:
                # Sums of squares of bytes are exact in float64.
                squared += cv2.norm(one.y[part], other.y[part], cv2.NORM_L2SQR)
                pixels += one.y[part].size
        self.error = OutsideError(squared, pixels, self.error.frames + 1)


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
