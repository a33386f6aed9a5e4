"""A visible note that a video is synthetic, drawn into the encoded picture itself: no player or platform loses it."""

from __future__ import annotations

import cv2
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from retalking_core.media.planes import plane_samples

# True of every engine; "AI" would not be of the preview engine.
TEXT = "SYNTHETIC VIDEO"
# Of the shorter side. 4 % keeps capitals over 10 pixels on a picture of 480 rows, the smallest that stays legible.
_HEIGHT_SHARE = 0.04
_LEAST_HEIGHT_PX = 16
_FONT = cv2.FONT_HERSHEY_DUPLEX
_PLATE_OPACITY = 0.7
_NEUTRAL = 128


class Badge:
    """White letters on a dark plate, bottom left. width, height: of the encoded picture, even."""

    def __init__(self, width: int, height: int, full_range: bool) -> None:
        black, white = (0, 255) if full_range else (16, 235)
        self.box = badge_box(width, height)
        left, top, right, bottom = self.box
        letters = _letters(right - left, bottom - top)
        # What the plate leaves of the picture, and what is added to it: f32 [h, w].
        self._keep = (1.0 - _PLATE_OPACITY) * (1.0 - letters)
        self._add = _PLATE_OPACITY * (1.0 - letters) * black + letters * white

    def stamp(self, picture: VideoFrame) -> None:
        """Draw into a yuv420p picture in place. Not a sample outside `box` changes."""
        left, top, right, bottom = self.box
        y, u, v = (plane_samples(picture.planes[number]) for number in range(3))
        luma = y[top:bottom, left:right]
        luma[:] = np.rint(luma * self._keep + self._add).astype(np.uint8)
        # Chroma has half the size; the box is even, so that its samples belong to it alone.
        keep = cv2.resize(self._keep, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        for plane in (u, v):
            chroma = plane[top // 2 : bottom // 2, left // 2 : right // 2]
            chroma[:] = np.rint(chroma * keep + _NEUTRAL * (1 - keep)).astype(np.uint8)


def badge_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom px, all even; at most the lower half of the picture."""
    size = max(_LEAST_HEIGHT_PX, round(min(width, height) * _HEIGHT_SHARE)) // 2 * 2
    left, bottom = min(size // 4 * 2, width // 8 * 2), (height - min(size // 2, height // 8)) // 2 * 2
    size = min(size, (bottom - height // 2) // 2 * 2)
    (text_width, text_height), _ = cv2.getTextSize(TEXT, _FONT, 1.0, 1)
    wide = round(text_width / text_height * size * 0.55 + size) // 2 * 2
    return left, bottom - size, min(left + wide, width), bottom


def _letters(width: int, height: int) -> NDArray[np.float32]:
    """f32 [height, width], 0..1: the text, centerd. Drawn four times as large, so that its edges are smooth."""
    scale = 4
    mask = np.zeros((height * scale, width * scale), np.uint8)
    (text_width, text_height), _ = cv2.getTextSize(TEXT, _FONT, 1.0, 1)
    size = min(width * scale * 0.88 / text_width, height * scale * 0.55 / text_height)
    thickness = max(1, round(size * 1.6))
    (text_width, text_height), _ = cv2.getTextSize(TEXT, _FONT, size, thickness)
    corner = ((width * scale - text_width) // 2, (height * scale + text_height) // 2)
    cv2.putText(mask, TEXT, corner, _FONT, size, 255, thickness, cv2.LINE_AA)
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
