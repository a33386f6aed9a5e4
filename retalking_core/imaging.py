"""Image arithmetic on batches, on any device: resampling, affine warps, mask blur, Laplacian blending.

Pixel centers lie at k + 0.5 (continuous coordinates). A resampling matrix holds in each row the weights with which one
output sample is made of the input samples; crop, resize and antialiasing are then two matrix products for all.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from retalking_core.networks.inference import upload

Kernel = Literal["bilinear", "bicubic", "lanczos"]
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}


def resampling_matrix(
    start: Tensor, step: Tensor, length: int, count: int, kernel: Kernel = "bilinear", antialias: bool = True
) -> Tensor:
    """Weights f32 [B, count, length], each row summing to 1.

    Output sample i of picture b lies at the continuous place start[b] + (i + 0.5) * step[b] of an axis of `length`
    input samples, whose centers lie at 0.5, 1.5, ...  Places beyond the axis repeat its outer samples. antialias: where
    samples are dropped (step > 1) the kernel is widened by the step, as Pillow does; it weighs only samples
    that exist.
    """
    device = start.device
    order = torch.arange(count, device=device, dtype=torch.float64) + 0.5
    center = start.double()[:, None] + order * step.double()[:, None]
    widening = step.double().abs().clamp(min=1.0) if antialias else torch.ones_like(step, dtype=torch.float64)
    reach = (_SUPPORT[kernel] * widening - 0.5)[:, None]
    # An axis place further out than the kernel reaches has no sample at all: it repeats the last one.
    center = torch.maximum(torch.minimum(center, length - 0.5 + reach * 0.999), 0.5 - reach * 0.999)
    taps = torch.arange(length, device=device, dtype=torch.float64) + 0.5
    # Places need float64 (a frame is wide), distances from them do not.
    weights = _kernel(((taps - center[..., None]) / widening[:, None, None]).float(), kernel)
    return weights / weights.sum(dim=2, keepdim=True)


def resample(pictures: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """f32 [B, C, H, W] by matrices [B, h, H] and [B, w, W] to [B, C, h, w]."""
    return rows[:, None] @ (pictures @ columns.transpose(1, 2)[:, None])


def crop_resized(pictures: Tensor, boxes: Tensor, size: int, antialias: bool = True) -> Tensor:
    """Boxes of pictures at size x size, f32 [B, C, size, size].

    pictures: f32 [B, C, H, W]; boxes: [B, 4] left, top, right, bottom, continuous px, may reach beyond the picture,
    whose edge is then repeated. Without antialias: OpenCV's bilinear resize of the box.
    """
    height, width = pictures.shape[2:]
    step = (boxes[:, 2:] - boxes[:, :2]) / size
    columns = resampling_matrix(boxes[:, 0], step[:, 0], width, size, antialias=antialias)
    rows = resampling_matrix(boxes[:, 1], step[:, 1], height, size, antialias=antialias)
    return resample(pictures, rows, columns)


def place_resized(pictures: Tensor, boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The way back: square pictures [B, C, n, n] laid into boxes of a canvas, bicubic.

    Returns the canvas f32 [B, C, height, width], edges repeated outside the box, and how far each pixel of the canvas
    lies in the box, f32 [B, 1, height, width] in 0..1 (fractional along its sides).
    """
    size = pictures.shape[-1]
    step = size / (boxes[:, 2:] - boxes[:, :2])
    start = -boxes[:, :2] * step
    columns = resampling_matrix(start[:, 0], step[:, 0], size, width, "bicubic")
    rows = resampling_matrix(start[:, 1], step[:, 1], size, height, "bicubic")
    return resample(pictures, rows, columns), box_cover(boxes, height, width)


def box_cover(boxes: Tensor, height: int, width: int) -> Tensor:
    """Share of each pixel that a box covers, f32 [B, 1, height, width]; boxes: [B, 4] left, top, right, bottom."""
    across = _covered(boxes[:, 0], boxes[:, 2], width)
    down = _covered(boxes[:, 1], boxes[:, 3], height)
    return down[:, None, :, None] * across[:, None, None, :]


def _covered(low: Tensor, high: Tensor, count: int) -> Tensor:
    left = torch.arange(count, device=low.device, dtype=torch.float32)
    return (torch.minimum(left + 1, high[:, None]) - torch.maximum(left, low[:, None])).clamp(0, 1)


def _kernel(x: Tensor, kernel: Kernel) -> Tensor:
    x = x.abs()
    if kernel == "bilinear":
        return (1 - x).clamp(min=0)
    if kernel == "bicubic":
        a = -0.5
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = (((x - 5) * x + 8) * x - 4) * a
        return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    return torch.where(x < 3, torch.sinc(x) * torch.sinc(x / 3), torch.zeros_like(x))


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


def blend_change(difference: Tensor, mask: Tensor, levels: int) -> Tensor:
    """What is added to the outer pictures, f32 [B, C, H, W].

    difference: inner minus outer pictures; mask: f32 [B, 1, H, W], 1 where the inner ones are wanted. H and W are
    multiples of 2^(levels - 1).
    """
    stack, masks = [difference], [mask]
    for _ in range(levels - 1):
        stack.append(pyr_down(stack[-1]))
        masks.append(pyr_down(masks[-1]))
    change = stack[-1] * masks[-1]
    for level in reversed(range(levels - 1)):
        change = pyr_up(change) + (stack[level] - pyr_up(stack[level + 1])) * masks[level]
    return change


def pyr_down(pictures: Tensor) -> Tensor:
    """1-4-6-4-1 filter with mirrored borders, every second sample; even sizes, or 1."""
    for axis in (3, 2):
        pictures = _pyr_down_axis(pictures, axis)
    return pictures


def pyr_up(pictures: Tensor) -> Tensor:
    """The way up: 1-6-1 on the samples, 1-1 between them; left border mirrored, right border repeated."""
    for axis in (3, 2):
        pictures = _pyr_up_axis(pictures, axis)
    return pictures


def _pyr_down_axis(x: Tensor, axis: int) -> Tensor:
    count = x.shape[axis]
    if count == 1:
        return x
    padding = [2, 2, 0, 0] if axis == 3 else [0, 0, 2, 2]
    # A size of 2 cannot be mirrored by two samples: 0 1 -> (0 1) 0 1 (0 1).
    x = F.pad(x, padding, mode="reflect") if count > 2 else torch.cat([x, x, x], dim=axis)
    taps = [x.narrow(axis, start, count) for start in range(5)]
    kept = slice(None, None, 2)
    one, four, six, other_four, last = (t[..., kept] if axis == 3 else t[..., kept, :] for t in taps)
    return (one + last + 4 * (four + other_four) + 6 * six) / 16


def _pyr_up_axis(x: Tensor, axis: int) -> Tensor:
    count = x.shape[axis]
    if count == 1:
        return torch.cat([x, x], dim=axis)
    left = torch.cat([x.narrow(axis, 1, 1), x.narrow(axis, 0, count - 1)], dim=axis)
    right = torch.cat([x.narrow(axis, 1, count - 1), x.narrow(axis, count - 1, 1)], dim=axis)
    pairs = torch.stack([(left + 6 * x + right) / 8, (x + right) / 2], dim=axis + 1)
    return pairs.flatten(axis, axis + 1)
