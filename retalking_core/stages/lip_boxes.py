"""The box of the face that the lip network redraws (spec: boxes-and-batches 1, 2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ORIGINAL_WINDOW = 5
# Top, bottom, left, right px; also what counts where the original is told not to correct for the jaw.
ORIGINAL_PADS = (0, 20, 0, 0)
# The lip network was trained on boxes of a face detector, which reach from the hairline to the chin (the convention of
# WIDER FACE); landmarks end at the brows. The forehead adds this share of the height from brows to chin.
FOREHEAD = 0.25


def detector_boxes(landmarks: NDArray) -> NDArray[np.float64]:
    """Boxes as a face detector draws them, from 68 landmarks [..., 68, 2]: left, top, right, bottom, continuous px."""
    points = np.asarray(landmarks, np.float64) + 0.5
    low, high = points.min(axis=-2), points.max(axis=-2)
    top = low[..., 1] - FOREHEAD * (high[..., 1] - low[..., 1])
    return np.stack([low[..., 0], top, high[..., 0], high[..., 1]], axis=-1)


def pad_boxes(boxes: NDArray, pads: tuple[int, int, int, int], width: int, height: int) -> NDArray:
    """Boxes (left, top, right, bottom) grown by top, bottom, left, right px (or shrunk), kept inside the frame."""
    top, bottom, left, right = pads
    grown = boxes + np.array([-left, -top, right, bottom])
    low = np.maximum(grown[..., :2], 0)
    high = np.minimum(grown[..., 2:], [width, height])
    return np.concatenate([low, high], axis=-1)


def smooth_boxes_original(boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The original's smoothing: means over five frames, cut off to whole pixels, in place.

    It looks ahead, mixes shots over a cut, and near the end averages what it has already averaged; with four boxes each
    becomes the last. Kept for golden vectors: the engine's boxes come from a smoothed track.
    """
    result = boxes.copy()
    for i in range(len(result)):
        window = result[i : i + ORIGINAL_WINDOW]
        if i + ORIGINAL_WINDOW > len(result):
            window = result[len(result) - ORIGINAL_WINDOW :]
        result[i] = np.trunc(window.mean(axis=0))
    return result


def face_boxes_original(
    detected: NDArray[np.int64],
    width: int,
    height: int,
    pads: tuple[int, int, int, int] = ORIGINAL_PADS,
    smooth: bool = True,
) -> NDArray[np.int64]:
    """i64 [N, 4] in the original's order y1, y2, x1, x2, from boxes x1, y1, x2, y2."""
    boxes = pad_boxes(detected, pads, width, height)
    return (smooth_boxes_original(boxes) if smooth else boxes)[:, [1, 3, 0, 2]]


def detected_box_original(candidates: NDArray[np.float64]) -> NDArray[np.int64]:
    """The first candidate (x1, y1, x2, y2, score), negative numbers cleared, cut off to whole pixels."""
    return np.maximum(candidates[0, :4], 0).astype(np.int64)
