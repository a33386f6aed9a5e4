"""Where the networks look: the 256-pixel crop that follows the face, and the box that the lip network redraws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retalking_core.engines.original.imaging import resize_bilinear
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
    """The original's rectangle for all frames (spec: face-crop 3).

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


def crop_first_frame_original(landmarks: NDArray, width: int, height: int) -> FirstFrameCrop:
    """The original's arithmetic, with its defects for 4K faces (11) and portrait frames, for golden vectors."""
    square = oriented_square(landmarks)
    quad, size = square.corners, float(square.side)
    image_width, image_height = width, height
    shrink = int(np.floor(size / NOMINAL_PX * 0.5))
    if shrink > 1:
        image_width, image_height = int(np.rint(width / shrink)), int(np.rint(height / shrink))
        quad, size = quad / shrink, size / shrink
    border = max(int(np.rint(size * 0.1)), 3)
    low, high = np.floor(quad.min(axis=0)).astype(int), np.ceil(quad.max(axis=0)).astype(int)
    left, top = (max(int(v) - border, 0) for v in low)
    right, bottom = min(int(high[0]) + border, image_width), min(int(high[1]) + border, image_height)
    if right - left < image_width or bottom - top < image_height:
        quad = quad - (left, top)
    quad = quad + 0.5
    (tlx, tly), (blx, bly), (brx, bry), (trx, try_) = quad
    # The bound of the lower edge is the width: a defect of the original that cuts tall portrait faces.
    x1, y1 = max(min(tlx, blx), 0.0), max(min(tly, try_), 0.0)
    x2, y2 = min(max(brx, trx), image_width), min(max(bly, bry), image_width)
    box = (top + int(y1), min(top + int(y2), height), left + int(x1), min(left + int(x2), width))
    return FirstFrameCrop((left, top, right, bottom), (float(x1), float(y1), float(x2), float(y2)), box)


def cut_original(picture: NDArray[np.uint8], crop: FirstFrameCrop) -> NDArray[np.uint8]:
    """The region of a full frame, u8 [h, w, 3]; slices clamp silently."""
    left, top, right, bottom = crop.crop
    x1, y1, x2, y2 = (int(v) for v in crop.quad)
    return picture[top:bottom, left:right][y1:y2, x1:x2]


def resize_256_original(region: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """u8 [256, 256, 3]; the aspect ratio is not kept."""
    return resize_bilinear(region, CROP_PX, CROP_PX)


def follow_face(
    track: FaceTrack, times_s: NDArray[np.float64], runs: list[tuple[int, int]] | None = None
) -> NDArray[np.float64]:
    """Square crops around the tracked face, f64 [N, 4] left, top, right, bottom, continuous px; NaN where it is unseen.

    runs: ranges within which the face moves without a gap or a cut; from `visible` where not given. A crop may reach
    beyond the frame. Its centre and side are those of the upright box of the oriented square,
    averaged over about `FOLLOW_S`, and pulled back to the face where it would leave.
    """
    boxes = np.full((len(track.visible), 4), np.nan)
    for start, stop in visible_runs(track.visible) if runs is None else runs:
        corners = oriented_square(track.landmarks[start:stop]).corners + 0.5
        low, high = corners.min(axis=1), corners.max(axis=1)
        centre, side = (low + high) / 2, (high - low).max(axis=1)
        smooth_side = _average(times_s[start:stop], side[:, None])
        smooth_side = np.clip(smooth_side, side[:, None] / (1 + SLACK), side[:, None] * (1 + SLACK))
        smooth = _average(times_s[start:stop], centre)
        smooth = np.clip(smooth, centre - SLACK * smooth_side, centre + SLACK * smooth_side)
        boxes[start:stop] = np.concatenate([smooth - smooth_side / 2, smooth + smooth_side / 2], axis=1)
    return boxes


def _average(times_s: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian average in time over neighbours up to two time constants away; values [n, k]."""
    result = np.empty_like(values)
    firsts = np.searchsorted(times_s, times_s - 2 * FOLLOW_S)
    lasts = np.searchsorted(times_s, times_s + 2 * FOLLOW_S, side="right")
    for k, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
        weight = np.exp(-(((times_s[first:last] - times_s[k]) / FOLLOW_S) ** 2) / 2)
        result[k] = weight @ values[first:last] / weight.sum()
    return result


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
