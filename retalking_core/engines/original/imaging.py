"""The original's image arithmetic on single images: OpenCV's resizing, warping, blurring and u8 pyramids."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SMOOTHING = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 16


def blur_gaussian(picture: NDArray[np.float32], size: int, sigma: float) -> NDArray[np.float32]:
    """size 0: as long as the sigma asks for; sigma 0: as wide as the size asks for. Mirrored borders."""
    return cv2.GaussianBlur(picture, (size, size), sigma)


def erode_block(mask: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Least value in a size x size block (even: -size/2 .. size/2 - 1); outside the picture does not count."""
    return cv2.erode(mask, np.ones((size, size), np.uint8))


def smooth_3x3(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cv2.filter2D(picture, -1, SMOOTHING)


def absolute_u8(values: NDArray[Any]) -> NDArray[np.uint8]:
    """min(255, |v| rounded half to even)."""
    return np.minimum(np.rint(np.abs(values)), 255).astype(np.uint8)


def truncate_u8(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Clipped to 0..255 and cut off, which darkens by half a level on average: the original's habit, kept for golden
    vectors only."""
    return np.clip(values, 0, 255).astype(np.uint8)


def resize_bilinear(picture: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    """u8 or f32 [H, W(, C)] to the new size: half-pixel centers, no antialiasing, u8 in OpenCV's fixed point.

    An equal size returns a copy. A trailing axis of one channel is dropped (as OpenCV does).
    """
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)


def warp_affine(
    picture: NDArray[Any], matrix: NDArray[np.float64], width: int, height: int, border: tuple[float, ...] = (0.0,)
) -> NDArray[Any]:
    """The picture moved by a forward 2x3 matrix, bilinear; outside neighbors have the border color."""
    value = (*border, *([0.0] * (4 - len(border))))
    return cv2.warpAffine(picture, np.asarray(matrix, np.float64), (width, height), borderValue=value)


def warp_quad(picture: NDArray[np.uint8], corners: NDArray[np.float64], width: int, height: int) -> NDArray[np.uint8]:
    """Pillow's QUAD, bilinear: the four-sided area of the picture as an upright one.

    corners: [4, 2] top left, bottom left, bottom right, top right, continuous (a pixel's center is at +0.5).
    """
    quad = tuple(np.asarray(corners, np.float64).ravel().tolist())
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.transform((width, height), Image.Transform.QUAD, quad, Image.Resampling.BILINEAR))


def warp_perspective(
    picture: NDArray[np.uint8], coefficients: NDArray[np.float64], width: int, height: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pillow's PERSPECTIVE, bilinear. Returns the picture (black outside) and where it is inside, [height, width].

    coefficients: k0..k7, which send an output place to one of the picture.
    """
    x, y = (np.arange(n) + 0.5 for n in (width, height))
    x, y = x[None, :], y[:, None]
    k = np.asarray(coefficients, np.float64)
    below = k[6] * x + k[7] * y + 1
    return _sample(picture, (k[0] * x + k[1] * y + k[2]) / below, (k[3] * x + k[4] * y + k[5]) / below)


def perspective_coefficients(places: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """k0..k7 of the map that sends four places to four targets, each [4, 2]."""
    rows, values = [], []
    for (x, y), (u, v) in zip(places, targets, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.linalg.solve(np.array(rows, np.float64), np.array(values, np.float64))


def _sample(
    picture: NDArray[np.uint8], u: NDArray[np.float64], v: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Bilinear at continuous places, neighbors clamped, truncated; black where a place lies outside the picture."""
    height, width = picture.shape[:2]
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    u, v = np.where(inside, u, 0.5) - 0.5, np.where(inside, v, 0.5) - 0.5
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    across, down = (u - left)[..., None], (v - top)[..., None]
    x0, x1 = np.clip(left, 0, width - 1), np.clip(left + 1, 0, width - 1)
    y0, y1 = np.clip(top, 0, height - 1), np.clip(top + 1, 0, height - 1)
    upper = picture[y0, x0] * (1 - across) + picture[y0, x1] * across
    lower = picture[y1, x0] * (1 - across) + picture[y1, x1] * across
    color = np.where(inside[..., None], upper * (1 - down) + lower * down, 0)
    return color.astype(np.uint8), inside


def pyr_down(picture: NDArray[Any]) -> NDArray[Any]:
    """1-4-6-4-1 filter, every second sample, size ceil(n / 2); u8 stays u8, rounded."""
    if picture.shape[0] == picture.shape[1] == 1:
        return picture.copy()
    return cv2.pyrDown(picture)


def pyr_up(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    return cv2.pyrUp(picture)


def blend_laplacian_original(
    inside: NDArray[np.uint8], outside: NDArray[np.uint8], mask: NDArray[np.float32], levels: int
) -> NDArray[np.float32]:
    """`inside` where mask is 1, `outside` where it is 0, each band of frequencies over a seam of its own width.

    Pictures u8 [n, n, 3], mask f32 [n, n], n a multiple of 2^(levels - 1). Result f32 [n, n, 3], not clipped.
    """
    stacks = [_gaussian_stack(picture, levels) for picture in (inside, outside, mask.astype(np.float32))]

    def mixed(level: int) -> NDArray[np.float32]:
        weight = stacks[2][level][..., None]
        inner, outer = (_band(stack, level, levels) for stack in stacks[:2])
        return inner * weight + outer * (1 - weight)

    result = mixed(levels - 1)
    for level in reversed(range(levels - 1)):
        result = pyr_up(result) + mixed(level)
    return result.astype(np.float32)


def _gaussian_stack(picture: NDArray[Any], levels: int) -> list[NDArray[Any]]:
    stack = [picture]
    while len(stack) < levels:
        stack.append(pyr_down(stack[-1]))
    return stack


def _band(stack: list[NDArray[Any]], level: int, levels: int) -> NDArray[np.float32]:
    here = stack[level].astype(np.float32)
    if level == levels - 1:
        return here
    return here - pyr_up(stack[level + 1].astype(np.float32))
