"""Axis-aligned resampling of a batch of pictures, each with its own place and scale: two small matrices a picture.

A row of such a matrix holds the weights with which one output sample is made of the input samples. Crop, resize and
antialiasing are then two matrix products for the whole batch, on any device.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

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
