"""Draws the inside of the mouth between the curves of the lips."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.engines.preview.mouth_interior import MouthInterior
from retalking_core.engines.preview.mouth_patch import MouthPatch, ease

Plane = NDArray[np.uint8]
# Gap (face scales) from which the inside of the mouth begins to be made out; at twice this it is seen in full.
SLIT, SLIT_SHADE = 0.028, 0.6
LEAST_GAP_PX = 0.3


def edge_px(scale: float) -> float:
    """Width of the soft edge of the opening."""
    return max(1.2, 0.018 * scale)


def draw_interior(
    luma: Plane, chroma: Plane, patch: MouthPatch, interior: MouthInterior, scale: float, light: float, black: float
) -> None:
    """Into the luma [h, w] and chroma [h/2, w/2, 2] of the patch's window. light, black: as `draw_mouth` has them."""
    gap, depth, soft = 2 * patch.half_gap, patch.offset + patch.half_gap, edge_px(scale)
    alpha = np.clip(depth / soft + 0.5, 0, 1) * np.clip((gap - depth) / soft + 0.5, 0, 1)
    alpha *= np.clip(gap / soft, 0, 1) * np.clip((patch.half_width - np.abs(patch.along)) / (0.05 * scale), 0, 1)
    yuv = _read_interior(interior, patch.along, depth, gap, scale)
    # The upper lip throws a soft shadow on the teeth, and a narrow slit lets in less light.
    lit = (0.8 + 0.2 * np.clip(gap / (0.1 * scale), 0, 1)) * (0.7 + 0.3 * np.clip(depth / (0.045 * scale), 0, 1))
    # A tongue that was bright in a wide-open mouth lies deeper in the dark of a smaller one.
    lit *= 1 - 0.5 * ease(depth / np.maximum(gap, 1e-3)) * np.clip(1 - gap / (interior.gaps.max() * scale), 0, 1)
    bright = black + (yuv[..., 0] - black) * lit * (light / interior.light)
    # Through a slit nothing can be made out: it is the lips' own colour in shadow, and becomes a mouth as it widens.
    seen = ease((gap / scale - SLIT) / SLIT)
    under = luma.astype(np.float32)
    shadow = black + (under - black) * SLIT_SHADE
    bright = shadow + (bright - shadow) * seen
    luma[...] = np.clip(under + (bright - under) * alpha + 0.5, 0, 255)
    size = (chroma.shape[1], chroma.shape[0])
    share = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA) * cv2.resize(seen, size, interpolation=cv2.INTER_AREA)
    colour = cv2.resize(yuv, size, interpolation=cv2.INTER_AREA)[..., 1:]
    chroma[...] = np.clip(chroma + (colour - chroma) * share[..., None] + 0.5, 0, 255)


def _read_interior(
    interior: MouthInterior, along: NDArray, depth: NDArray, gap: NDArray, scale: float
) -> NDArray[np.float32]:
    """Interior colours for each pixel of the patch, f32 [h, w, 3].

    Teeth keep their size: below the upper lip the picture is read at its own scale from the top, above the lower lip
    from the bottom, and what does not fit into a smaller gap is left out in between. A wider gap stretches it.
    """
    rows, columns = interior.yuv.shape[:2]
    column = np.clip((along * (1 / (0.97 * scale * interior.half_width)) + 1) / 2, 0, 1) * (columns - 1)
    level = np.zeros_like(column)
    own = cv2.remap(interior.gaps[None], column, level, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) * scale
    own, gap = np.maximum(own, 1.0), np.maximum(gap, 1e-3)
    share = np.clip(depth / gap, 0, 1)
    from_bottom = ease((share - 0.4) / 0.5)
    fitted = (1 - from_bottom) * np.clip(depth / own, 0, 1) + from_bottom * np.clip(1 - (gap - depth) / own, 0, 1)
    row = np.where(gap >= own, share, fitted) * (rows - 1)
    return cv2.remap(interior.yuv, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
