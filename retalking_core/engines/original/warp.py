"""Geometric transforms of single pictures, as the original does them (spec: primitives P2, P3, P10)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def warp_affine(
    picture: NDArray, matrix: NDArray[np.float64], width: int, height: int, border: tuple[float, ...] = (0.0,)
) -> NDArray:
    """The picture moved by a forward 2x3 matrix, bilinear; outside neighbours have the border colour."""
    value = (*border, *([0.0] * (4 - len(border))))
    return cv2.warpAffine(picture, np.asarray(matrix, np.float64), (width, height), borderValue=value)


def invert_affine(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of a 2x3 map (or a stack of them, [..., 2, 3])."""
    linear = np.linalg.inv(matrix[..., :2])
    return np.concatenate([linear, -linear @ matrix[..., 2:]], axis=-1)


def warp_quad(picture: NDArray[np.uint8], corners: NDArray[np.float64], width: int, height: int) -> NDArray[np.uint8]:
    """Pillow's QUAD, bilinear: the four-sided area of the picture as an upright one.

    corners: [4, 2] top left, bottom left, bottom right, top right, continuous (a pixel's centre is at +0.5).
    """
    x, y = _unit_grid(width, height)
    top_left, bottom_left, bottom_right, top_right = np.asarray(corners, np.float64)
    cross = bottom_right - bottom_left - top_right + top_left
    place = top_left + (top_right - top_left) * x + (bottom_left - top_left) * y + cross * x * y
    return _sample(picture, place[..., 0], place[..., 1])[0]


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


def _unit_grid(width: int, height: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x = (np.arange(width) + 0.5) / width
    y = (np.arange(height) + 0.5) / height
    return np.broadcast_to(x[None, :, None], (height, width, 1)), np.broadcast_to(y[:, None, None], (height, width, 1))


def _sample(
    picture: NDArray[np.uint8], u: NDArray[np.float64], v: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Bilinear at continuous places, neighbours clamped, truncated; black where a place lies outside the picture."""
    height, width = picture.shape[:2]
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    u, v = np.where(inside, u, 0.5) - 0.5, np.where(inside, v, 0.5) - 0.5
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    across, down = (u - left)[..., None], (v - top)[..., None]
    x0, x1 = np.clip(left, 0, width - 1), np.clip(left + 1, 0, width - 1)
    y0, y1 = np.clip(top, 0, height - 1), np.clip(top + 1, 0, height - 1)
    upper = picture[y0, x0] * (1 - across) + picture[y0, x1] * across
    lower = picture[y1, x0] * (1 - across) + picture[y1, x1] * across
    colour = np.where(inside[..., None], upper * (1 - down) + lower * down, 0)
    return colour.astype(np.uint8), inside
