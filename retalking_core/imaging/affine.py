"""Turned, scaled and shifted copies of a batch of pictures, on any device."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from retalking_core.device import upload


def warp_batch(
    pictures: Tensor, out_to_in: NDArray[np.float64], height: int, width: int, outside: str = "border"
) -> Tensor:
    """f32 [B, C, height, width], bilinear.

    out_to_in: [B, 2, 3], from continuous places of the result to those of the pictures (center of pixel k at k + 0.5).
    outside: `border` repeats the edge, `zeros` is 0. Where the map shrinks, the pictures are averaged first over as
    many pixels as fit into one of the result, so that fine patterns do not flicker.
    """
    factor = shrinking_factor(out_to_in)
    if factor > 1:
        pictures = F.avg_pool2d(pictures, factor)
    theta = _relative(
        np.asarray(out_to_in, np.float64) / factor, (width, height), (pictures.shape[3], pictures.shape[2])
    )
    grid = F.affine_grid(upload(theta, pictures.device), [len(theta), 1, height, width], align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode=outside, align_corners=False)


def shrinking_factor(out_to_in: NDArray[np.float64]) -> int:
    """Whole pixels of the input in one of the result, the least of the batch, at least 1."""
    return max(1, int(np.sqrt(np.abs(np.linalg.det(out_to_in[..., :2]))).min() + 1e-6))


def _relative(matrix: NDArray[np.float64], out_size: tuple[int, int], in_size: tuple[int, int]) -> NDArray[np.float64]:
    """The map between places -1..1 of both pictures instead of pixels. Sizes: width, height."""
    out_half, in_half = np.array(out_size) / 2, np.array(in_size)[:, None] / 2
    linear = matrix[..., :2] * out_half
    shift = matrix[..., 2:] + linear.sum(axis=-1, keepdims=True)
    return np.concatenate([linear, shift - in_half], axis=-1) / in_half


def invert_affine(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of a 2x3 map (or a stack of them, [..., 2, 3])."""
    linear = np.linalg.inv(matrix[..., :2])
    return np.concatenate([linear, -linear @ matrix[..., 2:]], axis=-1)
