"""The restoration pass with the original's arithmetic (spec: restoration-compositing 1, 2), for golden vectors.

One frame at a time, whole frame. The engine's version, which works on the tracked face alone, stands in `restore.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retalking_core.engines.original.imaging import blur_gaussian, erode_block, truncate_u8
from retalking_core.engines.original.resize import resize_bilinear
from retalking_core.engines.original.warp import invert_affine, warp_affine
from retalking_core.faces.alignment import GFPGAN_TEMPLATE

Picture = NDArray[np.uint8]
Restorer = Callable[[Tensor], Tensor]
Parser = Callable[[Tensor], Tensor]
FACE_PX = 512
BORDER_BGR = (135, 133, 132)
MIN_SCORE, MIN_EYE_PX = 0.97, 5.0
MOUTH_CLASSES = (10, 11, 12)


@dataclass(frozen=True)
class AlignedFace:
    """picture: u8 [512, 512, 3] BGR. frame_to_face, face_to_frame: f64 [2, 3]."""

    picture: Picture
    frame_to_face: NDArray[np.float64]
    face_to_frame: NDArray[np.float64]


def usable_faces(detections: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows (box 4, score, five points x, y) with a score above 0.97 and eyes far enough apart.

    The eye distance is measured from the wrong columns, as facexlib 0.2.5 does.
    """
    score = detections[:, 4] > MIN_SCORE
    points = detections[:, 5:].reshape(-1, 5, 2)
    apart = np.hypot(points[:, 0, 1] - points[:, 1, 1], points[:, 1, 0] - points[:, 2, 0]) >= MIN_EYE_PX
    return detections[score & apart]


def central_face(faces: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """The row whose box centre is nearest to the middle of the picture."""
    centres = (faces[:, :2] + faces[:, 2:4]) / 2
    return faces[np.linalg.norm(centres - (width / 2, height / 2), axis=1).argmin()]


def align_original(frame: Picture, points: NDArray) -> AlignedFace:
    """Five points to the template by least median of squares, which drops a point in one face of seven."""
    source, target = np.asarray(points, np.float64), GFPGAN_TEMPLATE
    matrix = cv2.estimateAffinePartial2D(source, target, method=cv2.LMEDS)[0]
    picture = warp_affine(frame, matrix, FACE_PX, FACE_PX, BORDER_BGR)
    return AlignedFace(picture, matrix, invert_affine(matrix))


def to_network(face: Picture) -> Tensor:
    """u8 BGR to f32 [1, 3, 512, 512], RGB -1..1."""
    rgb = np.ascontiguousarray(face[..., ::-1]).astype(np.float32)
    return (torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5


def rounded_u8(output: Tensor) -> Picture:
    """-1..1 to u8 of the same layout, rounded: how the restoration pass (alone) stores its picture."""
    return np.rint((output.clamp(-1, 1).numpy() + 1) / 2 * 255).astype(np.uint8)


def paste_face_original(frame: Picture, face: Picture, face_to_frame: NDArray[np.float64]) -> Picture:
    """The restored face over the frame with a soft edge of a twentieth of its size; truncated."""
    height, width = frame.shape[:2]
    moved = warp_affine(face, face_to_frame, width, height)
    cover = warp_affine(np.ones((FACE_PX, FACE_PX), np.float32), face_to_frame, width, height)
    cover = erode_block(cover, 2)
    edge = int(np.floor(np.sqrt(cover.sum()))) // 20
    soft = blur_gaussian(erode_block(cover, 2 * edge), 2 * edge + 1, 0)[..., None]
    return truncate_u8(soft * (cover[..., None] * moved) + (1 - soft) * frame)


def restore_frame_original(frame: Picture, detections: NDArray[np.float32], restorer: Restorer) -> Picture:
    """The frame with its most central face restored; unchanged without a usable face."""
    faces = usable_faces(detections)
    if len(faces) == 0:
        return frame
    row = central_face(faces, frame.shape[1], frame.shape[0])
    aligned = align_original(frame, row[5:].reshape(5, 2))
    restored = rounded_u8(restorer(to_network(aligned.picture))[0]).transpose(1, 2, 0)[..., ::-1]
    return paste_face_original(frame, np.ascontiguousarray(restored), aligned.face_to_frame)


def parse_original(parser: Parser, picture: Picture) -> NDArray[np.uint8]:
    """Class of each pixel, u8 [512, 512], of a BGR picture of any size. parser: [1, 3, 512, 512] -> logits."""
    small = resize_bilinear(picture, FACE_PX, FACE_PX)[..., ::-1]
    scaled = (small / 255.0 * 2 - 1).astype(np.float32).transpose(2, 0, 1)
    return parser(torch.from_numpy(scaled)[None])[0].argmax(dim=0).numpy().astype(np.uint8)


def mouth_mask_original(parser: Parser, frame: Picture, box: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """1 on the mouth inside a box (y1, y2, x1, x2), else 0, f32 [H, W].

    The soft mask goes through whole numbers on its way, so that only what is wholly mouth stays.
    """
    y1, y2, x1, x2 = box
    classes = parse_original(parser, frame[y1:y2, x1:x2])
    mouth = np.where(np.isin(classes, MOUTH_CLASSES), 255, 0).astype(np.uint8)
    mask = np.zeros(frame.shape[:2], np.float32)
    mask[y1:y2, x1:x2] = resize_bilinear(mouth, x2 - x1, y2 - y1) == 255
    return mask
