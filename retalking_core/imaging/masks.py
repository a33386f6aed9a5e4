"""Masks of a batch of pictures, on any device: blur, shrink, grow. f32 [B, 1, H, W] in 0..1."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from retalking_core.device import upload


def blur(mask: Tensor, sigma_px: float, reach: int | None = None) -> Tensor:
    """Gaussian blur, mirrored borders (spec: P4). reach: half length of the kernel, 3 sigma unless given.

    As two matrix products, which a GPU is made for; its library's convolution of a single channel is not.
    """
    reach = min(reach or max(1, math.ceil(3 * sigma_px)), min(mask.shape[-2:]) - 1)
    down, across = (_blur_matrix(count, sigma_px, reach, mask.device) for count in mask.shape[-2:])
    return down @ mask @ across.T


@lru_cache(maxsize=16)
def _blur_matrix(count: int, sigma_px: float, reach: int, device: torch.device) -> Tensor:
    """Weights f32 [count, count]: row k makes the blurred sample k."""
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma_px**2))
    taps = np.pad(np.arange(count), reach, mode="reflect")
    matrix = np.zeros((count, count))
    for offset, weight in zip(offsets, kernel / kernel.sum(), strict=True):
        np.add.at(matrix, (np.arange(count), taps[np.arange(count) + reach + offset]), weight)
    return upload(matrix, device)


def grow(mask: Tensor, radius_px: int) -> Tensor:
    """Largest value within a square of the radius; outside the picture does not count."""
    if radius_px < 1:
        return mask
    size = 2 * radius_px + 1
    across = F.max_pool2d(mask, (1, size), stride=1, padding=(0, radius_px))
    return F.max_pool2d(across, (size, 1), stride=1, padding=(radius_px, 0))


def shrink(mask: Tensor, radius_px: int) -> Tensor:
    """Least value within a square of the radius; outside the picture does not count."""
    return 1 - grow(1 - mask, radius_px)


def clear_border(mask: Tensor, width_px: int) -> Tensor:
    """The mask with a frame of zeros."""
    inner = mask[..., width_px:-width_px, width_px:-width_px]
    return F.pad(inner, (width_px,) * 4)


def fade_in_frame(height: int, width: int, margin_px: float, device: torch.device | str = "cpu") -> Tensor:
    """f32 [1, 1, H, W]: 0 on the outermost pixels, rising smoothly to 1 at `margin_px` from the sides."""
    ramps = []
    for count in (height, width):
        place = torch.arange(count, device=device, dtype=torch.float32)
        t = (torch.minimum(place, count - 1 - place) / margin_px).clamp(0, 1)
        ramps.append(t * t * (3 - 2 * t))
    return (ramps[0][:, None] * ramps[1][None])[None, None]
