"""Where the networks look: the 256 px crop that follows the face, the lip network's box, and the region around both.

Only the region, a square of each frame at its own resolution, is copied to the device and back, as YUV planes; colors
are converted there. Coordinates inside a region are continuous, with its upper left corner at (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from retalking_core.faces.landmarks import oriented_square
from retalking_core.faces.track import visible_runs
from retalking_core.media.planes import color_matrices
from retalking_core.networks.inference import upload
from retalking_core.types import ColorTags, FaceTrack, Frame

# Sides are multiples of this, so that a pyramid of seven levels fits.
GRAIN_PX = 64


@dataclass(frozen=True)
class FacePlaces:
    """Where the face is in each of B frames. landmarks: f64 [B, 68, 2], pixel centers at integers. crops: f64 [B, 4],
    what the networks of 256 see. boxes: f64 [B, 4], what the lip network redraws. Both left, top, right, bottom,
    continuous px."""

    landmarks: NDArray[np.float64]
    crops: NDArray[np.float64]
    boxes: NDArray[np.float64]

    def shifted(self, origins: NDArray[np.int64]) -> FacePlaces:
        """The same places seen from each frame's origin (left, top), i64 [B, 2]."""
        twice = np.concatenate([origins, origins], axis=1)
        return FacePlaces(self.landmarks - origins[:, None], self.crops - twice, self.boxes - twice)

    def scaled(self) -> NDArray[np.float64]:
        """Landmarks in pixels of the 256 crops (pixel centers at integers), f64 [B, 68, 2]."""
        size = (self.crops[:, 2:] - self.crops[:, :2])[:, None]
        return (self.landmarks + 0.5 - self.crops[:, None, :2]) * (256 / size) - 0.5

    def boxes_in_crops(self) -> NDArray[np.float64]:
        """The lip boxes in continuous pixels of the 256 crops, f64 [B, 4]."""
        size = self.crops[:, 2:] - self.crops[:, :2]
        twice = np.concatenate([self.crops[:, :2], self.crops[:, :2]], axis=1)
        return (self.boxes - twice) * (256 / np.concatenate([size, size], axis=1))


@dataclass(frozen=True)
class RegionBatch:
    """On the device. luma: u8 [B, 1, R, R]; chroma: u8 [B, 2, R/2, R/2]; edges repeated beyond the frame. pictures: f32
    [B, 3, R, R], the same as BGR, whole numbers 0..255. origins: i64 [B, 2], even, left and top of each region in its
    frame (may be negative)."""

    luma: Tensor
    chroma: Tensor
    pictures: Tensor
    origins: NDArray[np.int64]

    @property
    def side(self) -> int:
        return self.pictures.shape[-1]


def region_side(places: FacePlaces, margin: float = 0.125) -> int:
    """Side of a square that holds each frame's crop, and its lip box with a margin around it (a share of the box)."""
    low, high = _extent(places, margin)
    side = float((high - low).max()) + 2
    return int(np.ceil(side / GRAIN_PX)) * GRAIN_PX


def cut_regions(
    frames: Sequence[Frame], places: FacePlaces, side: int, color: ColorTags, device: torch.device | str
) -> RegionBatch:
    """Regions of one side around each frame's face."""
    low, high = _extent(places, 0.0)
    origins = (np.floor(((low + high) / 2 - side / 2) / 2) * 2).astype(np.int64)
    luma = np.empty((len(frames), 1, side, side), np.uint8)
    chroma = np.empty((len(frames), 2, side // 2, side // 2), np.uint8)
    for k, (frame, origin) in enumerate(zip(frames, origins, strict=True)):
        _cut_plane(frame.y, origin, luma[k, 0])
        _cut_plane(frame.u, origin // 2, chroma[k, 0])
        _cut_plane(frame.v, origin // 2, chroma[k, 1])
    y, uv = upload(luma, device), upload(chroma, device)
    to_bgr, _ = color_matrices(color, frames[0].y.shape[0])
    # Chroma is repeated, not interpolated: averaging 2x2 on the way back then returns the same chroma.
    planes = torch.cat([y.float(), F.interpolate(uv.float(), scale_factor=2, mode="nearest")], dim=1)
    pictures = convert_colors(planes, to_bgr).round_().clamp_(0, 255)
    return RegionBatch(y, uv, pictures, origins)


def changed_planes(regions: RegionBatch, changes: Tensor, color: ColorTags, height: int) -> Tensor:
    """The regions' planes with a change f32 [B, 3, R, R] (BGR levels) added, u8 [B, R * R * 3 / 2]: luma, then U, V.

    height: of the whole frame. A luma byte stays where the change is 0, a chroma byte where it is 0 on all four pixels
    that it covers; nothing goes through a conversion there and back.
    """
    _, to_yuv = color_matrices(color, height)
    moved = convert_colors(changes, to_yuv * np.array([1, 1, 1, 0], np.float32))
    luma = regions.luma + moved[:, :1]
    chroma = regions.chroma + F.avg_pool2d(moved[:, 1:], 2)
    planes = torch.cat([luma.flatten(1), chroma.flatten(1)], dim=1)
    return planes.round_().clamp_(0, 255).to(torch.uint8)


def put_regions(
    frames: Sequence[Frame], origins: NDArray[np.int64], side: int, planes: NDArray[np.uint8]
) -> list[Frame]:
    """New frames with their regions replaced. planes: u8 [B, R * R * 3 / 2], as `changed_planes` gives them."""
    return [_put(*item, side) for item in zip(frames, origins, planes, strict=True)]


def _extent(places: FacePlaces, margin: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    room = margin * (places.boxes[:, 2:] - places.boxes[:, :2])
    low = np.minimum(places.crops[:, :2], places.boxes[:, :2] - room)
    high = np.maximum(places.crops[:, 2:], places.boxes[:, 2:] + room)
    return low, high


def convert_colors(pictures: Tensor, matrix: NDArray[np.float32]) -> Tensor:
    """Colors by a 3x4 matrix, channel by channel: no library's reduced precision comes near them."""
    first, second, third = pictures.unbind(dim=1)
    rows = [first * float(a) + second * float(b) + third * float(c) + float(d) for a, b, c, d in matrix]
    return torch.stack(rows, dim=1)


def _cut_plane(plane: NDArray[np.uint8], origin: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    """The square of `out`'s size at an origin (x, y); what lies beyond the plane repeats its edge."""
    inside, here = _overlap(plane.shape, origin, len(out))
    out[inside] = plane[here]
    rows, columns = inside
    out[: rows.start, columns] = out[rows.start, columns]
    out[rows.stop :, columns] = out[rows.stop - 1, columns]
    out[:, : columns.start] = out[:, columns.start, None]
    out[:, columns.stop :] = out[:, columns.stop - 1, None]


def _put(frame: Frame, origin: NDArray[np.int64], planes: NDArray[np.uint8], side: int) -> Frame:
    result = frame.copy()
    half = side // 2
    parts = planes[: side * side].reshape(side, side), *planes[side * side :].reshape(2, half, half)
    for plane, part, corner in zip(
        (result.y, result.u, result.v), parts, (origin, origin // 2, origin // 2), strict=True
    ):
        inside, here = _overlap(plane.shape, corner, len(part))
        plane[here] = part[inside]
    return result


def _overlap(
    shape: tuple[int, int], origin: NDArray[np.int64], side: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """(rows, columns) of a square that lie in a plane: counted in the square, and in the plane."""
    inside, here = [], []
    for start, length in zip((int(origin[1]), int(origin[0])), shape, strict=True):
        low, high = max(start, 0), min(start + side, length)
        here.append(slice(low, high))
        inside.append(slice(low - start, high - start))
    return (inside[0], inside[1]), (here[0], here[1])


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


def detector_boxes(landmarks: NDArray[Any]) -> NDArray[np.float64]:
    """Boxes as a face detector draws them, from 68 landmarks [..., 68, 2]: left, top, right, bottom, continuous px."""
    points = np.asarray(landmarks, np.float64) + 0.5
    low, high = points.min(axis=-2), points.max(axis=-2)
    top = low[..., 1] - FOREHEAD * (high[..., 1] - low[..., 1])
    return np.stack([low[..., 0], top, high[..., 0], high[..., 1]], axis=-1)


def pad_boxes(boxes: NDArray[Any], pads: tuple[int, int, int, int], width: int, height: int) -> NDArray[Any]:
    """Boxes (left, top, right, bottom) grown by top, bottom, left, right px (or shrunk), kept inside the frame."""
    top, bottom, left, right = pads
    grown = boxes + np.array([-left, -top, right, bottom])
    low = np.maximum(grown[..., :2], 0)
    high = np.minimum(grown[..., 2:], [width, height])
    return np.concatenate([low, high], axis=-1)
