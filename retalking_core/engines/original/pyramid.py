"""The original's Laplacian blend: u8 Gaussian pyramids rounded at every level (spec: restoration-compositing 3; P8).

The batched float version that the engine uses stands in `imaging/blending.py`.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def halve(picture: NDArray) -> NDArray:
    """1-4-6-4-1 filter, every second sample, size ceil(n / 2); u8 stays u8, rounded."""
    if picture.shape[0] == picture.shape[1] == 1:
        return picture.copy()
    return cv2.pyrDown(picture)


def double(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    return cv2.pyrUp(picture)


def blend_laplacian_original(
    inside: NDArray[np.uint8], outside: NDArray[np.uint8], mask: NDArray[np.float32], levels: int
) -> NDArray[np.float32]:
    """`inside` where mask is 1, `outside` where it is 0, each band of frequencies over a seam of its own width.

    Pictures u8 [n, n, 3], mask f32 [n, n], n a multiple of 2^(levels - 1). Result f32 [n, n, 3], not clipped.
    """
    stacks = [_gaussian_stack(picture, levels) for picture in (inside, outside, mask.astype(np.float32))]
    result: NDArray[np.float32] | None = None
    for level in reversed(range(levels)):
        weight = stacks[2][level][..., None]
        bands = [_band(stack, level, levels) for stack in stacks[:2]]
        mixed = bands[0] * weight + bands[1] * (1 - weight)
        result = mixed if result is None else double(result) + mixed
    return result.astype(np.float32)


def _gaussian_stack(picture: NDArray, levels: int) -> list[NDArray]:
    stack = [picture]
    while len(stack) < levels:
        stack.append(halve(stack[-1]))
    return stack


def _band(stack: list[NDArray], level: int, levels: int) -> NDArray[np.float32]:
    here = stack[level].astype(np.float32)
    if level == levels - 1:
        return here
    return here - double(stack[level + 1].astype(np.float32))
