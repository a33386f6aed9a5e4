"""The 68 iBUG points: which are which, how large the face is, and whether they can be a face at all.

Order (the observer's left to right): 0-16 jaw, 17-26 brows, 27-30 nose bridge, 31-35 nose base, 36-41 and 42-47 eyes,
48-59 outer lip, 60-67 inner lip.
"""

from __future__ import annotations

from itertools import pairwise

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

Points = NDArray[np.float32]


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
    upper = landmarks[..., [pair[0] for pair in INNER_PAIRS], :]
    lower = landmarks[..., [pair[1] for pair in INNER_PAIRS], :]
    gap = np.linalg.norm(lower - upper, axis=-1).mean(axis=-1)
    return (gap / np.maximum(face_scale(landmarks), 1e-6)).astype(np.float32)


def bounding_box(landmarks: Points) -> NDArray[np.float32]:
    """Left, top, right, bottom of the points; [..., 68, 2] -> [..., 4]."""
    return np.concatenate([landmarks.min(axis=-2), landmarks.max(axis=-2)], axis=-1).astype(np.float32)


def iou(one: NDArray, other: NDArray) -> float:
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
