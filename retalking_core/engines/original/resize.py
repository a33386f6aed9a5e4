"""Bilinear resize and bounds-safe crop of single pictures, as the original does them (spec: primitives P1, P12)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def resize_bilinear(picture: NDArray, width: int, height: int) -> NDArray:
    """u8 or f32 [H, W(, C)] to the new size: half-pixel centres, no antialiasing, u8 in OpenCV's fixed point.

    An equal size returns a copy. A trailing axis of one channel is dropped (as OpenCV does).
    """
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)


def crop_black(picture: NDArray, left: int, top: int, right: int, bottom: int) -> NDArray:
    """The pixels of a box that may reach beyond the picture; what is missing is 0. [bottom - top, right - left, C]."""
    height, width = picture.shape[:2]
    result = np.zeros((bottom - top, right - left, *picture.shape[2:]), picture.dtype)
    x0, x1, y0, y1 = max(left, 0), min(right, width), max(top, 0), min(bottom, height)
    if x0 < x1 and y0 < y1:
        result[y0 - top : y1 - top, x0 - left : x1 - left] = picture[y0:y1, x0:x1]
    return result
