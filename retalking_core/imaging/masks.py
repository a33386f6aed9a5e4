"""Masks of a batch of pictures, on any device: blur and border. f32 [B, 1, H, W] in 0..1."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from retalking_core.device import upload


def blur(mask: Tensor, sigma_px: float, reach: int | None = None) -> Tensor:
    """Gaussian blur, mirrored borders. reach: half length of the kernel, 3 sigma unless given.

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


def clear_border(mask: Tensor, width_px: int) -> Tensor:
    """The mask with a frame of zeros."""
    inner = mask[..., width_px:-width_px, width_px:-width_px]
    return F.pad(inner, (width_px,) * 4)
