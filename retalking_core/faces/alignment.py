"""Geometry from 68 landmarks: five points, the oriented square around a face, similarity and orthographic fits.

All functions take a single face or a stack ([..., 68, 2]) and compute in float64. Pixel centers lie at integers unless
a name says `continuous`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.floating]
LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)
LEFT_MOUTH, RIGHT_MOUTH, NOSE_TIP = 48, 54, 30
# The same five points of a standard face in space, y up.
STANDARD_FIVE = np.array(
    [
        [-0.31148657, 0.29036078, 0.13377953],
        [0.30979887, 0.28972036, 0.13179526],
        [0.0032534988, -0.046179324, 0.55244243],
        [-0.25216928, -0.38133916, 0.22405732],
        [0.2484662, -0.38128236, 0.22235769],
    ],
    np.float32,
)
# Five points in a 512 crop, as GFPGAN was trained on (FFHQ alignment) and as GPEN was.
GFPGAN_TEMPLATE = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
GPEN_TEMPLATE = np.array(
    [
        [202.040684, 242.883963],
        [309.430246, 242.289981],
        [256.0768, 303.95917],
        [211.959775, 366.828195],
        [300.891125, 366.33631],
    ]
)


@dataclass(frozen=True)
class OrientedSquare:
    """A square turned with the face. center, across, down: f64 [..., 2] px; the latter two are half sides."""

    center: NDArray[np.float64]
    across: NDArray[np.float64]
    down: NDArray[np.float64]

    @property
    def corners(self) -> NDArray[np.float64]:
        """[..., 4, 2]: top left, bottom left, bottom right, top right."""
        c, x, y = self.center, self.across, self.down
        return np.stack([c - x - y, c - x + y, c + x + y, c + x - y], axis=-2)

    @property
    def side(self) -> NDArray[np.float64]:
        return 2 * np.linalg.norm(self.across, axis=-1)


def oriented_square(landmarks: Points) -> OrientedSquare:
    """The square that FFHQ's alignment puts around a face (Karras et al., CVPR 2019)."""
    points = np.asarray(landmarks, np.float64)
    left, right = points[..., LEFT_EYE, :].mean(axis=-2), points[..., RIGHT_EYE, :].mean(axis=-2)
    eyes, between = (left + right) / 2, right - left
    to_mouth = (points[..., LEFT_MOUTH, :] + points[..., RIGHT_MOUTH, :]) / 2 - eyes
    direction = np.stack([between[..., 0] + to_mouth[..., 1], between[..., 1] - to_mouth[..., 0]], axis=-1)
    half = np.maximum(2.0 * np.linalg.norm(between, axis=-1), 1.8 * np.linalg.norm(to_mouth, axis=-1))
    across = direction / np.linalg.norm(direction, axis=-1, keepdims=True) * half[..., None]
    down = np.stack([-across[..., 1], across[..., 0]], axis=-1)
    return OrientedSquare(eyes + 0.1 * to_mouth, across, down)


def five_points_3dmm(landmarks: Points) -> NDArray[np.float64]:
    """Left eye, right eye, nose tip, mouth corners, [..., 5, 2]; an eye is the middle of its corners."""
    points = np.asarray(landmarks, np.float64)
    left = (points[..., 36, :] + points[..., 39, :]) / 2
    right = (points[..., 42, :] + points[..., 45, :]) / 2
    return np.stack([left, right, *(points[..., k, :] for k in (NOSE_TIP, LEFT_MOUTH, RIGHT_MOUTH))], axis=-2)


def five_points(landmarks: Points) -> NDArray[np.float64]:
    """As a face detector gives them: an eye is the middle of its six points. [..., 5, 2]."""
    points = np.asarray(landmarks, np.float64)
    left, right = points[..., LEFT_EYE, :].mean(axis=-2), points[..., RIGHT_EYE, :].mean(axis=-2)
    return np.stack([left, right, *(points[..., k, :] for k in (NOSE_TIP, LEFT_MOUTH, RIGHT_MOUTH))], axis=-2)


def fit_similarity(source: Points, target: Points) -> NDArray[np.float64]:
    """Least-squares turn, scale and shift from source to target points ([..., n, 2] each), [..., 2, 3].

    Umeyama's solution without reflection, in complex numbers.
    """
    src, dst = (np.asarray(p, np.float64) @ (1, 1j) for p in (source, target))
    src_mean, dst_mean = src.mean(axis=-1, keepdims=True), dst.mean(axis=-1, keepdims=True)
    src_free = src - src_mean
    factor = (np.conj(src_free) * (dst - dst_mean)).sum(axis=-1) / (np.abs(src_free) ** 2).sum(axis=-1)
    shift = dst_mean[..., 0] - factor * src_mean[..., 0]
    rows = [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def fit_orthographic(five_y_up: Points) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and shift of the standard face seen from afar: (s0 [...], t [..., 2]), least squares.

    five_y_up: [..., 5, 2] px with the y axis up. A pixel is s0 standard units long seen the other way round: 102 / s0
    brings the face to the size that the 3DMM regressor expects.
    """
    known = np.concatenate([STANDARD_FIVE.astype(np.float64), np.ones((5, 1))], axis=1)
    solution = np.linalg.pinv(known) @ np.asarray(five_y_up, np.float64)
    lengths = np.linalg.norm(solution[..., :3, :], axis=-2)
    return lengths.mean(axis=-1), solution[..., 3, :]


def moved(points: Points, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points [..., n, 2] through 2x3 maps [..., 2, 3]."""
    points = np.asarray(points, np.float64)
    return points @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2]
