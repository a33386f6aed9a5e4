"""Where the networks look: the 256-pixel crop that follows the face, and the box that the lip network redraws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retalking_core.errors import FaceNotFoundError
from retalking_core.faces.alignment import oriented_square
from retalking_core.faces.smoothing import visible_runs
from retalking_core.types import FaceTrack

NOMINAL_PX = 512
CROP_PX = 256
# The crop follows the face with this time constant; a head's sway (0.5 to 2 Hz) stays visible inside it.
FOLLOW_S = 1.0
# How far beyond the crop the oriented square may reach, as a share of its side, before the crop hurries after it.
SLACK = 0.12


@dataclass(frozen=True)
class FirstFrameCrop:
    """The original's rectangle for all frames.

    crop: left, top, right, bottom px, integers. quad: qx1, qy1, qx2, qy2 inside the crop. box: Y1, Y2, X1, X2 of the
    full frame, where the patch is put back.
    """

    crop: tuple[int, int, int, int]
    quad: tuple[float, float, float, float]
    box: tuple[int, int, int, int]


def first_face(frame_count: int, find_face: Callable[[int], NDArray | None]) -> NDArray:
    """Landmarks of the first face in the first half of the video, as the original searches.

    find_face: frame number -> landmarks or None. Raises: FaceNotFoundError (the original dies of a TypeError).
    """
    for index in range(frame_count // 2):
        found = find_face(index)
        if found is not None:
            return found
    raise FaceNotFoundError("No face was found in the first half of the video.")


def cut_original(picture: NDArray[np.uint8], crop: FirstFrameCrop) -> NDArray[np.uint8]:
    """The region of a full frame, u8 [h, w, 3]; slices clamp silently."""
    left, top, right, bottom = crop.crop
    x1, y1, x2, y2 = (int(v) for v in crop.quad)
    return picture[top:bottom, left:right][y1:y2, x1:x2]


def follow_face(
    track: FaceTrack, times_s: NDArray[np.float64], runs: list[tuple[int, int]] | None = None
) -> NDArray[np.float64]:
    """Square crops around the tracked face, f64 [N, 4] left, top, right, bottom, continuous px; NaN where it is unseen.

    runs: ranges within which the face moves without a gap or a cut; from `visible` where not given. A crop may reach
    beyond the frame. Its center and side are those of the upright box of the oriented square,
    averaged over about `FOLLOW_S`, and pulled back to the face where it would leave.
    """
    boxes = np.full((len(track.visible), 4), np.nan)
    for start, stop in visible_runs(track.visible) if runs is None else runs:
        corners = oriented_square(track.landmarks[start:stop]).corners + 0.5
        low, high = corners.min(axis=1), corners.max(axis=1)
        center, side = (low + high) / 2, (high - low).max(axis=1)
        smooth_side = _average(times_s[start:stop], side[:, None])
        smooth_side = np.clip(smooth_side, side[:, None] / (1 + SLACK), side[:, None] * (1 + SLACK))
        smooth = _average(times_s[start:stop], center)
        smooth = np.clip(smooth, center - SLACK * smooth_side, center + SLACK * smooth_side)
        boxes[start:stop] = np.concatenate([smooth - smooth_side / 2, smooth + smooth_side / 2], axis=1)
    return boxes


def _average(times_s: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian average in time over neighbors up to two time constants away; values [n, k]."""
    result = np.empty_like(values)
    firsts = np.searchsorted(times_s, times_s - 2 * FOLLOW_S)
    lasts = np.searchsorted(times_s, times_s + 2 * FOLLOW_S, side="right")
    for k, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
        weight = np.exp(-(((times_s[first:last] - times_s[k]) / FOLLOW_S) ** 2) / 2)
        result[k] = weight @ values[first:last] / weight.sum()
    return result


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
