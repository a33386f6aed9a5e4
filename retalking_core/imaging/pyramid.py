"""Laplacian blend of a batch at its own resolution, on any device (Burt and Adelson 1983).

The pyramid is linear, so blending A over B by a mask is B plus what a mask does to the pyramid of A - B: one pyramid of
pictures instead of two, and where A equals B the change is exactly 0. In floats: nothing is rounded between levels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


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
