"""CSIM: whether the person stays the same. Cosine of ArcFace embeddings of aligned faces.

Deng et al., "ArcFace: additive angular margin loss for deep face recognition", CVPR 2019; five-point alignment to the
112 x 112 template by a least-squares similarity (Umeyama, IEEE TPAMI 1991).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.evaluation.bgr_frames import Picture

SIDE_PX = 112
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Left eye, right eye, nose, left and right mouth corner as seen by the observer; (x, y) px."""


def five_points(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """68 points [68, 2] -> the template's five: middle of each eye, tip of the nose, corners of the mouth."""
    eyes = landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)
    return np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]]).astype(np.float64)


def similarity_to_template(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """The 2x3 map (turn, one scale, shift; no mirroring) that brings five points [5, 2] nearest to the template."""
    source = points.astype(np.float64)
    middle, target_middle = source.mean(axis=0), TEMPLATE.mean(axis=0)
    x, y = (source - middle).T
    u, v = (TEMPLATE - target_middle).T
    # The least-squares similarity in the plane is one complex number: sum(target * conj(source)) / sum(|source|^2).
    size = (x * x + y * y).sum()
    if size < 1e-12:
        raise ValueError("the five points are one and the same")
    a, b = (x * u + y * v).sum() / size, (x * v - y * u).sum() / size
    turn = np.array([[a, -b], [b, a]])
    return np.column_stack([turn, target_middle - turn @ middle])


def align_face(picture: Picture, points: NDArray[np.floating]) -> Picture:
    """BGR u8 [H, W, 3] -> the face as BGR u8 [112, 112, 3]; black where the picture ends."""
    return cv2.warpAffine(picture, similarity_to_template(points), (SIDE_PX, SIDE_PX), flags=cv2.INTER_LINEAR)


def cosines(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """Embeddings [n, d] each -> cosine of each pair [n], -1..1."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    return (one * other).sum(axis=1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))
