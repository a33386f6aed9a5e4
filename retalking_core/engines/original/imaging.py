"""Blur, erosion and conversions of single pictures, as the original does them (spec: primitives P4 to P7, P11)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SMOOTHING = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 16


def blur_gaussian(picture: NDArray[np.float32], size: int, sigma: float) -> NDArray[np.float32]:
    """size 0: as long as the sigma asks for; sigma 0: as wide as the size asks for. Mirrored borders."""
    return cv2.GaussianBlur(picture, (size, size), sigma)


def erode_block(mask: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Least value in a size x size block (even: -size/2 .. size/2 - 1); outside the picture does not count."""
    return cv2.erode(mask, np.ones((size, size), np.uint8))


def smooth_3x3(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cv2.filter2D(picture, -1, SMOOTHING)


def absolute_u8(values: NDArray) -> NDArray[np.uint8]:
    """min(255, |v| rounded half to even)."""
    return np.minimum(np.rint(np.abs(values)), 255).astype(np.uint8)


def grey_of_bgr(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """OpenCV's fixed-point luma of a BGR picture."""
    return cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)


def truncate_u8(values: NDArray) -> NDArray[np.uint8]:
    """Clipped to 0..255 and cut off, which darkens by half a level on average: the original's habit, kept for golden
    vectors only."""
    return np.clip(values, 0, 255).astype(np.uint8)
