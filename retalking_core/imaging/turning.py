"""Turned, scaled and shifted copies of a batch of pictures, on any device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


def warp_batch(
    pictures: Tensor, out_to_in: NDArray[np.float64], height: int, width: int, outside: str = "border"
) -> Tensor:
    """f32 [B, C, height, width], bilinear.

    out_to_in: [B, 2, 3], from continuous places of the result to those of the pictures (centre of pixel k at k + 0.5).
    outside: `border` repeats the edge, `zeros` is 0. Where the map shrinks, the pictures are averaged first over as
    many pixels as fit into one of the result, so that fine patterns do not flicker.
    """
    factor = shrinking_factor(out_to_in)
    if factor > 1:
        pictures = F.avg_pool2d(pictures, factor)
    size = torch.tensor([pictures.shape[3], pictures.shape[2]], device=pictures.device, dtype=torch.float64)
    matrix = torch.from_numpy(np.asarray(out_to_in, np.float64) / factor).to(pictures.device)
    x = torch.arange(width, device=pictures.device, dtype=torch.float64) + 0.5
    y = torch.arange(height, device=pictures.device, dtype=torch.float64) + 0.5
    place = (
        matrix[:, None, None, :, 0] * x[None, None, :, None]
        + matrix[:, None, None, :, 1] * y[None, :, None, None]
        + matrix[:, None, None, :, 2]
    )
    grid = (2 * place / size - 1).float()
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode=outside, align_corners=False)


def shrinking_factor(out_to_in: NDArray[np.float64]) -> int:
    """Whole pixels of the input in one of the result, the least of the batch, at least 1."""
    return max(1, int(np.sqrt(np.abs(np.linalg.det(out_to_in[..., :2]))).min() + 1e-6))
