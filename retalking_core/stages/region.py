"""The square part of each frame in which all work on a face is done, at the frame's own resolution.

Everything downstream has coordinates of the region: continuous, its left upper corner at (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retalking_core.media.colour import add_bgr_change, region_to_bgr
from retalking_core.types import ColourTags, Frame

# Sides are multiples of this, so that a pyramid of seven levels fits.
GRAIN_PX = 64


@dataclass(frozen=True)
class FacePlaces:
    """Where the face is in each of B frames. landmarks: f64 [B, 68, 2], pixel centres at integers. crops: f64 [B, 4],
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
        """Landmarks in pixels of the 256 crops (pixel centres at integers), f64 [B, 68, 2]."""
        size = (self.crops[:, 2:] - self.crops[:, :2])[:, None]
        return (self.landmarks + 0.5 - self.crops[:, None, :2]) * (256 / size) - 0.5

    def boxes_in_crops(self) -> NDArray[np.float64]:
        """The lip boxes in continuous pixels of the 256 crops, f64 [B, 4]."""
        size = self.crops[:, 2:] - self.crops[:, :2]
        twice = np.concatenate([self.crops[:, :2], self.crops[:, :2]], axis=1)
        return (self.boxes - twice) * (256 / np.concatenate([size, size], axis=1))


@dataclass(frozen=True)
class RegionBatch:
    """pictures: f32 [B, 3, R, R], BGR 0..255, edges repeated beyond the frame. origins: i64 [B, 2], even, left and top
    of each region in its frame (may be negative)."""

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
    frames: Sequence[Frame], places: FacePlaces, side: int, colour: ColourTags, device: torch.device | str
) -> RegionBatch:
    """Regions of one side around each frame's face. Only pixels of the region are converted from YUV."""
    low, high = _extent(places, 0.0)
    origins = (np.floor(((low + high) / 2 - side / 2) / 2) * 2).astype(np.int64)
    pictures = np.stack([_cut(frame, origin, side, colour) for frame, origin in zip(frames, origins, strict=True)])
    tensor = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float()
    return RegionBatch(tensor.contiguous(), origins)


def add_changes(frames: Sequence[Frame], regions: RegionBatch, changes: Tensor, colour: ColourTags) -> list[Frame]:
    """New frames with a change f32 [B, 3, R, R] (BGR levels) added. Where it is 0 every byte stays as decoded."""
    host = changes.permute(0, 2, 3, 1).cpu().numpy()
    return [_add(*item, colour) for item in zip(frames, regions.origins, host, strict=True)]


def _extent(places: FacePlaces, margin: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    room = margin * (places.boxes[:, 2:] - places.boxes[:, :2])
    low = np.minimum(places.crops[:, :2], places.boxes[:, :2] - room)
    high = np.maximum(places.crops[:, 2:], places.boxes[:, 2:] + room)
    return low, high


def _inside(frame: Frame, origin: NDArray[np.int64], side: int) -> tuple[int, int, int, int]:
    height, width = frame.y.shape
    left, top = int(max(origin[0], 0)), int(max(origin[1], 0))
    return left, top, int(min(origin[0] + side, width)), int(min(origin[1] + side, height))


def _cut(frame: Frame, origin: NDArray[np.int64], side: int, colour: ColourTags) -> NDArray[np.uint8]:
    left, top, right, bottom = box = _inside(frame, origin, side)
    before = top - origin[1], left - origin[0]
    after = origin[1] + side - bottom, origin[0] + side - right
    rows, columns = zip(before, after, strict=True)
    return np.pad(region_to_bgr(frame, box, colour), (rows, columns, (0, 0)), mode="edge")


def _add(frame: Frame, origin: NDArray[np.int64], change: NDArray[np.float32], colour: ColourTags) -> Frame:
    left, top, right, bottom = box = _inside(frame, origin, len(change))
    part = change[top - origin[1] : bottom - origin[1], left - origin[0] : right - origin[0]]
    result = frame.copy()
    add_bgr_change(result, box, np.ascontiguousarray(part), colour)
    return result
