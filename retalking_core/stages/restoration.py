"""Face restoration: GPEN enhances the reference, GFPGAN restores the speaking face, ParseNet masks its parts.

The original detects the face again before each network and aligns it by a robust fit that jumps; here the smoothed
landmarks of the track align it. One parse of the restored face gives both masks, where the original parses twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from retalking_core.device import upload
from retalking_core.faces.alignment import GFPGAN_TEMPLATE, GPEN_TEMPLATE, fit_similarity, five_points
from retalking_core.imaging.affine import invert_affine, warp_batch
from retalking_core.imaging.masks import blur, clear_border
from retalking_core.stages.stabilize import from_signed, to_signed

# Inner mouth, upper lip, lower lip; skin, nose, glasses, eyes, brows and those three.
MOUTH_CLASSES = (10, 11, 12)
FACE_CLASSES = (1, 2, 3, 4, 5, 6, 7, 10, 11, 12)
CLASSES = 19
BORDER_PX = 20
# Softness of the masks' edges in pixels of the 512 crop. The blend adds the seam that each frequency needs.
MOUTH_SIGMA_PX, FACE_SIGMA_PX = 2.0, 4.0

# Faces [B, 3, 512, 512], RGB -1..1, to (logits [B, 19, 512, 512], picture).
Parser = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class FaceParts:
    """face, mouth: f32 [B, 1, 512, 512] in 0..1, 0 along the border of the crop."""

    face: Tensor
    mouth: Tensor


def parse_face(parser: Parser, faces: Tensor) -> FaceParts:
    """faces: f32 [B, 3, 512, 512], RGB -1..1, upright."""
    classes = parser(faces)[0].argmax(dim=1, keepdim=True)
    face, mouth = (_any_of(classes, wanted) for wanted in (FACE_CLASSES, MOUTH_CLASSES))
    return FaceParts(
        blur(clear_border(face, BORDER_PX), FACE_SIGMA_PX), blur(clear_border(mouth, BORDER_PX), MOUTH_SIGMA_PX)
    )


def _any_of(classes: Tensor, wanted: tuple[int, ...]) -> Tensor:
    table = np.zeros(CLASSES, np.float32)
    table[list(wanted)] = 1
    return upload(table, classes.device)[classes]


FACE_PX = 512
# Faces [B, 3, 512, 512], RGB -1..1, to the same, unbounded.
Restorer = Callable[[Tensor], Tensor]


def template_transforms(landmarks: NDArray, template: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(picture to template, template to picture), f64 [B, 2, 3], continuous px both.

    landmarks: [B, 68, 2]; template: five points in a 512 crop; both with pixel centers at integers.
    """
    forward = fit_similarity(five_points(landmarks) + 0.5, np.broadcast_to(template + 0.5, (len(landmarks), 5, 2)))
    return forward, invert_affine(forward)


def enhance(restorer: Restorer, parser: Parser, faces: Tensor, landmarks: NDArray) -> Tensor:
    """Sharper faces, f32 [B, 3, 256, 256], RGB 0..255: the restored inner face laid softly over the given one.

    faces: f32 [B, 3, 256, 256], RGB 0..255; landmarks: [B, 68, 2] px of them.
    """
    height, width = faces.shape[2:]
    forward, back = template_transforms(landmarks, GPEN_TEMPLATE)
    restored = restorer(to_signed(warp_batch(faces, back, FACE_PX, FACE_PX)))
    mask = parse_face(parser, restored.clamp(-1, 1)).face
    laid = warp_batch(from_signed(restored), forward, height, width)
    return faces + (laid - faces) * warp_batch(mask, forward, height, width, outside="zeros")


@dataclass(frozen=True)
class RestoredFace:
    """In coordinates of the region. pictures: f32 [B, 3, R, R], BGR 0..255, to be trusted where a mask is above 0.
    face, mouth: f32 [B, 1, R, R] in 0..1."""

    pictures: Tensor
    face: Tensor
    mouth: Tensor


def restore(restorer: Restorer, parser: Parser, pictures: Tensor, landmarks: NDArray) -> RestoredFace:
    """pictures: f32 [B, 3, R, R], BGR 0..255; landmarks: [B, 68, 2] px of them."""
    side = pictures.shape[-1]
    forward, back = template_transforms(landmarks, GFPGAN_TEMPLATE)
    aligned = warp_batch(pictures, back, FACE_PX, FACE_PX).flip(1)
    restored = restorer(to_signed(aligned)).clamp(-1, 1)
    parts = parse_face(parser, restored)
    face, mouth = (warp_batch(mask, forward, side, side, outside="zeros") for mask in (parts.face, parts.mouth))
    return RestoredFace(warp_batch(from_signed(restored).flip(1), forward, side, side), face, mouth)
