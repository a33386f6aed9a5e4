"""The 68 landmarks of a face (iBUG 300-W): size, plausibility, five points, similarity and orthographic fits.

Order (the observer's left to right): 0-16 jaw, 17-26 brows, 27-30 nose bridge, 31-35 nose base, 36-41 and 42-47 eyes,
48-59 outer lip, 60-67 inner lip. Functions take one face or a stack ([..., 68, 2]); pixel centers lie at integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

OUTER_EYES = (36, 45)
NASION, NOSE_BASE = 27, 33
MOUTH = np.arange(48, 68)
EYES, NOSE_WINGS, LIPS = slice(36, 48), slice(31, 36), slice(48, 68)
# Points that keep still while somebody speaks: eyes, nose bridge and nose base.
RIGID = np.array([*range(27, 48)])
# Inner lip, upper point and the lower point under it.
INNER_PAIRS = ((61, 67), (62, 66), (63, 65))

Points = NDArray[np.floating[Any]]


def face_scale(landmarks: Points) -> NDArray[np.float32]:
    """Size of a face in pixels, about the outer-eye distance of a frontal one; landmarks [..., 68, 2] -> [...].

    A turned head shortens the eye distance and a nod shortens the nose, so both count half. 2.0 brings the distance
    from the eye line to the nose base to the outer-eye distance (ratio 1.87 to 2.17 on four faces).
    """
    left, right = (landmarks[..., point, :] for point in OUTER_EYES)
    across, drop = right - left, landmarks[..., NOSE_BASE, :] - (left + right) / 2
    eye_distance, nose_distance = (np.hypot(way[..., 0], way[..., 1]) for way in (across, drop))
    return (0.5 * eye_distance + 0.5 * 2.0 * nose_distance).astype(np.float32)


def inner_gap(landmarks: Points) -> NDArray[np.float32]:
    """Distance between the inner lips, mean of the three pairs, in units of `face_scale`; [..., 68, 2] -> [...]."""
    return (_inner_gap_px(landmarks) / np.maximum(face_scale(landmarks), 1e-6)).astype(np.float32)


def relative_gap(landmarks: Points) -> NDArray[np.float32]:
    """The same in heights of the face, from the brows to the chin."""
    height_px = np.ptp(landmarks[..., 1], axis=-1)
    return (_inner_gap_px(landmarks) / np.maximum(height_px, 1e-6)).astype(np.float32)


def _inner_gap_px(landmarks: Points) -> NDArray[Any]:
    upper = landmarks[..., [pair[0] for pair in INNER_PAIRS], :]
    lower = landmarks[..., [pair[1] for pair in INNER_PAIRS], :]
    return np.linalg.norm(lower - upper, axis=-1).mean(axis=-1)


def bounding_box(landmarks: Points) -> NDArray[np.float32]:
    """Left, top, right, bottom of the points; [..., 68, 2] -> [..., 4]."""
    return np.concatenate([landmarks.min(axis=-2), landmarks.max(axis=-2)], axis=-1).astype(np.float32)


def iou(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom), 0..1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1])
    return float(width * height / (areas - width * height))


def is_plausible(landmarks: Points, height: int, width: int) -> bool:
    """Whether 68 points can be a face: parts in order, sane proportions, the mouth and most else in the picture."""
    scale = float(face_scale(landmarks))
    if not np.isfinite(landmarks).all() or scale < 12:
        return False
    across = landmarks[45] - landmarks[36]
    across = across / max(float(np.linalg.norm(across)), 1e-6)
    down = np.array([-across[1], across[0]], np.float32)
    along, below = landmarks @ across, landmarks @ down
    heights = [float(below[part].sum()) / (part.stop - part.start) for part in (EYES, NOSE_WINGS, LIPS)]
    steps = [(low - high) / scale for high, low in pairwise([*heights, float(below[8])])]
    jaw, mouth = float(along[16] - along[0]) / scale, float(along[54] - along[48]) / scale
    in_order = all(0.12 < step < 1.6 for step in steps)
    inside = (landmarks >= 0).all(axis=1) & (landmarks[:, 0] < width) & (landmarks[:, 1] < height)
    mouth_inside = bool(inside[48:68].all() and inside[6:11].all())
    return in_order and 0.9 < jaw < 2.6 and 0.2 < mouth < 1.2 and mouth_inside and float(inside.mean()) > 0.85


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
