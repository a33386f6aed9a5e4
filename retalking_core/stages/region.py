"""The square part of each frame in which all work on a face is done, at the frame's own resolution.

Only these squares travel to the device and back, as the YUV planes that they are; colors are converted there.
Everything downstream has coordinates of the region: continuous, its left upper corner at (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from retalking_core.device import upload
from retalking_core.media.color import color_matrices
from retalking_core.types import ColorTags, Frame

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
    luma, chroma = upload(luma, device), upload(chroma, device)
    to_bgr, _ = color_matrices(color, frames[0].y.shape[0])
    # Chroma is repeated, not interpolated: averaging 2x2 on the way back then returns the same chroma.
    planes = torch.cat([luma.float(), F.interpolate(chroma.float(), scale_factor=2, mode="nearest")], dim=1)
    pictures = _transformed(planes, to_bgr).round_().clamp_(0, 255)
    return RegionBatch(luma, chroma, pictures, origins)


def changed_planes(regions: RegionBatch, changes: Tensor, color: ColorTags, height: int) -> Tensor:
    """The regions' planes with a change f32 [B, 3, R, R] (BGR levels) added, u8 [B, R * R * 3 / 2]: luma, then U, V.

    height: of the whole frame. A luma byte stays where the change is 0, a chroma byte where it is 0 on all four pixels
    that it covers; nothing goes through a conversion there and back.
    """
    _, to_yuv = color_matrices(color, height)
    moved = _transformed(changes, to_yuv * np.array([1, 1, 1, 0], np.float32))
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


def _transformed(pictures: Tensor, matrix: NDArray[np.float32]) -> Tensor:
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
