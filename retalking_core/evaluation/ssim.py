"""Structural similarity, by the toolkit's exact procedure.

Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE
TIP 2004, in the variant that scikit-image computes by default (7x7 uniform window, sample covariance).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.evaluation.bgr_frames import Picture

SIDE_PX = 224
WINDOW_PX, EDGE_PX = 7, 3
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
# Sums over the window are divided by n - 1.
SAMPLE = WINDOW_PX**2 / (WINDOW_PX**2 - 1)


def toolkit_gray(picture: Picture) -> NDArray[np.uint8]:
    """The whole frame squeezed to 224 x 224, then grey; u8 [224, 224]."""
    return cv2.cvtColor(cv2.resize(picture, (SIDE_PX, SIDE_PX)), cv2.COLOR_BGR2GRAY)


def similarity(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """SSIM of two grey pictures u8 [H, W] of one size, -1..1; 1 for equal ones."""
    x, y = one.astype(np.float64), other.astype(np.float64)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x = SAMPLE * (_window_mean(x * x) - mean_x * mean_x)
    variance_y = SAMPLE * (_window_mean(y * y) - mean_y * mean_y)
    covariance = SAMPLE * (_window_mean(x * y) - mean_x * mean_y)
    above = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    below = (mean_x * mean_x + mean_y * mean_y + C1) * (variance_x + variance_y + C2)
    return float((above / below)[EDGE_PX:-EDGE_PX, EDGE_PX:-EDGE_PX].mean())


def _window_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return cv2.blur(values, (WINDOW_PX, WINDOW_PX), borderType=cv2.BORDER_REFLECT)
