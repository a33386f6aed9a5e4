"""Enhancement and final composite with the original's arithmetic (restoration-compositing 5, 6), for golden tests.

Mode A restores the stabilized face; mode B lays the finished face over the original frame. Whole frames, one at a time;
the engine's versions stand in `enhance.py` and `composite.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from retalking_core.engines.original.imaging import absolute_u8, blur_gaussian, smooth_3x3, truncate_u8
from retalking_core.engines.original.pyramid import blend_laplacian_original
from retalking_core.engines.original.resize import resize_bilinear
from retalking_core.engines.original.restore import (
    FACE_PX,
    AlignedFace,
    Parser,
    Picture,
    Restorer,
    mouth_mask_original,
    parse_original,
    restore_frame_original,
    to_network,
)
from retalking_core.engines.original.warp import invert_affine, warp_affine
from retalking_core.errors import FaceNotFoundError
from retalking_core.faces.alignment import GPEN_TEMPLATE, fit_similarity

MIN_SCORE, SMALL_FACE_PX = 0.9, 100
FACE_CLASSES = (1, 2, 3, 4, 5, 6, 7, 10, 11, 12)
MASK_BORDER_PX, SOFT_SIZE, SOFT_SIGMA, SHARP_SIZE = 20, 101, 11, 9
MOUTH_LEVELS, FACE_LEVELS, BOTTOM_ROWS = 10, 6, 5
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class DetectedFaces:
    """boxes: [n, 5] x1, y1, x2, y2, score, best first; landmarks: [n, 10] x of the five points, then y."""

    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]

    def accepted(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """(box, points [5, 2]) of the faces of at least 0.9."""
        for box, row in zip(self.boxes, self.landmarks, strict=True):
            if box[4] >= MIN_SCORE:
                yield box, row.reshape(2, 5).T


@dataclass(frozen=True)
class MergedFaces:
    """faces: f32 [H, W, 3], black elsewhere. soft, sharp: f32 [H, W]; sharp is the last face's."""

    faces: NDArray[np.float32]
    soft: NDArray[np.float32]
    sharp: NDArray[np.float32]


def align_gpen(picture: Picture, points: NDArray) -> AlignedFace:
    """Five points to GPEN's template by least squares, black outside."""
    matrix = fit_similarity(points, GPEN_TEMPLATE)
    return AlignedFace(warp_affine(picture, matrix, FACE_PX, FACE_PX), matrix, invert_affine(matrix))


def truncated_gpen_u8(output: Tensor) -> Picture:
    """GPEN's RGB -1..1 [1, 3, 512, 512] to u8 BGR [512, 512, 3], truncated."""
    unit = ((output[0].numpy() + 1) / 2).clip(0, 1)
    return np.ascontiguousarray((unit * 255).astype(np.uint8).transpose(1, 2, 0)[..., ::-1])


def face_masks(parser: Parser, face: Picture) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(soft, sharp) f32 [512, 512] of an aligned face: its inner parts, without a border of 20 px."""
    sharp = np.isin(parse_original(parser, face), FACE_CLASSES).astype(np.float32)
    inner = np.zeros_like(sharp)
    keep = slice(MASK_BORDER_PX, -MASK_BORDER_PX)
    inner[keep, keep] = sharp[keep, keep]
    soft = blur_gaussian(blur_gaussian(inner, SOFT_SIZE, SOFT_SIGMA), SOFT_SIZE, SOFT_SIGMA)
    return soft, inner


def merge_faces(picture: Picture, detected: DetectedFaces, parser: Parser, restorer: Restorer | None) -> MergedFaces:
    """All accepted faces, restored if there is a restorer, laid back over a black picture.

    Raises: FaceNotFoundError where the original dies of an UnboundLocalError.
    """
    height, width = picture.shape[:2]
    faces = np.zeros((height, width, 3), np.float32)
    most = np.zeros((height, width), np.float32)
    sharp: NDArray[np.float32] | None = None
    for box, points in detected.accepted():
        aligned = align_gpen(picture, points)
        face = aligned.picture if restorer is None else truncated_gpen_u8(restorer(to_network(aligned.picture)))
        soft, inner = face_masks(parser, face)
        if restorer is not None and min(box[2] - box[0], box[3] - box[1]) < SMALL_FACE_PX:
            face = smooth_3x3(face)
        moved, soft, sharp = (warp_affine(p, aligned.face_to_frame, width, height) for p in (face, soft, inner))
        wins = soft > most
        most[wins] = soft[wins]
        faces[wins] = moved[wins]
    if sharp is None:
        raise FaceNotFoundError("No face was found in a picture that has to hold one.")
    return MergedFaces(faces, most, blur_gaussian(sharp, SHARP_SIZE, 1))


def enhance_original(face: Picture, detected: DetectedFaces, restorer: Restorer, parser: Parser) -> Picture:
    """Mode A: a 256 picture with its faces restored, u8."""
    merged = merge_faces(face, detected, parser, restorer)
    soft, sharp = merged.soft[..., None], merged.sharp[..., None]
    blended = absolute_u8(face * (1 - soft) + merged.faces * soft)
    return absolute_u8(face * (1 - sharp) + blended * sharp)


def finish_original(
    picture: Picture, original: Picture, detected: DetectedFaces, parser: Parser, box: Box | None
) -> Picture:
    """Mode B: the faces of a picture over the original frame, inside the box (y1, y2, x1, x2) less its last rows."""
    merged = merge_faces(picture, detected, parser, restorer=None)
    mask = merged.soft
    if box is not None:
        y1, y2, x1, x2 = box
        inside = np.zeros_like(merged.sharp)
        inside[y1 : y2 - BOTTOM_ROWS, x1:x2] = 1
        mask = merged.sharp * inside
    return blend_at_512_original(truncate_u8(merged.faces), original, mask, FACE_LEVELS)


def blend_at_512_original(inside: Picture, outside: Picture, mask: NDArray[np.float32], levels: int) -> Picture:
    """Laplacian blend of whole frames squeezed to 512 x 512: what costs the original its sharpness."""
    height, width = outside.shape[:2]
    small = (resize_bilinear(picture, FACE_PX, FACE_PX) for picture in (inside, outside, mask))
    blended = np.clip(blend_laplacian_original(*small, levels), 0, 255)
    return truncate_u8(resize_bilinear(blended, width, height))


def composite_original(
    frame: Picture,
    prediction: NDArray[np.float32],
    box: Box,
    restore_faces: NDArray[np.float32],
    finish_faces: DetectedFaces,
    restorer: Restorer,
    parser: Parser,
) -> tuple[Picture, Picture]:
    """One output frame: (after the mouth blend, final), u8 [H, W, 3] BGR.

    prediction: f32 [384, 384, 3] BGR 0..1. restore_faces, finish_faces: what the two detectors find in the pasted frame
    and in the blended one.
    """
    y1, y2, x1, x2 = box
    pasted = frame.copy()
    pasted[y1:y2, x1:x2] = resize_bilinear(truncate_u8(prediction * np.float32(255)), x2 - x1, y2 - y1)
    restored = restore_frame_original(pasted, restore_faces, restorer)
    mouth = mouth_mask_original(parser, restored, box)
    blended = blend_at_512_original(restored, pasted, mouth, MOUTH_LEVELS)
    return blended, finish_original(blended, frame, finish_faces, parser, box)
