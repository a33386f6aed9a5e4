"""Restoration, enhancement and final composite with the original's arithmetic, one whole frame at a time.

Mode A (`enhance_original`) restores the stabilized face; mode B (`finish_original`) lays the finished face over the
original frame. The engine's own versions are `stages/restoration.py` and `stages/composite.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retalking_core.engines.original.stages import (
    absolute_u8,
    blend_laplacian_original,
    blur_gaussian,
    erode_block,
    resize_bilinear,
    smooth_3x3,
    truncate_u8,
    warp_affine,
)
from retalking_core.errors import FaceNotFoundError
from retalking_core.faces.landmarks import GFPGAN_TEMPLATE, GPEN_TEMPLATE, fit_similarity
from retalking_core.imaging import invert_affine

Picture = NDArray[np.uint8]
Restorer = Callable[[Tensor], Tensor]
Parser = Callable[[Tensor], Tensor]
FACE_PX = 512
BORDER_BGR = (135, 133, 132)
RESTORE_MIN_SCORE, MIN_EYE_PX = 0.97, 5.0
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
    score = detections[:, 4] > RESTORE_MIN_SCORE
    points = detections[:, 5:].reshape(-1, 5, 2)
    apart = np.hypot(points[:, 0, 1] - points[:, 1, 1], points[:, 1, 0] - points[:, 2, 0]) >= MIN_EYE_PX
    return detections[score & apart]


def central_face(faces: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """The row whose box center is nearest to the middle of the picture."""
    centers = (faces[:, :2] + faces[:, 2:4]) / 2
    return faces[np.linalg.norm(centers - (width / 2, height / 2), axis=1).argmin()]


def align_original(frame: Picture, points: NDArray[Any]) -> AlignedFace:
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


def align_gpen(picture: Picture, points: NDArray[Any]) -> AlignedFace:
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
    inner, outer, small_mask = (resize_bilinear(picture, FACE_PX, FACE_PX) for picture in (inside, outside, mask))
    blended = np.clip(blend_laplacian_original(inner, outer, small_mask, levels), 0, 255)
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
