"""Restoration (GPEN, GFPGAN, ParseNet) and the composite of the finished face into the frame.

The original detects the face again before each network, aligns it with a robust fit that jumps, squeezes the frame
through 512 x 512 twice and clips values. Here the smoothed landmarks align the face, one parse of the restored face
gives both masks, and both blends work on the region at the frame's own resolution; what they add fades to exactly 0
before the edge, so every pixel outside the face stays as it was decoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retalking_core.faces.landmarks import GFPGAN_TEMPLATE, GPEN_TEMPLATE, fit_similarity, five_points
from retalking_core.imaging import blend_change, blur, box_cover, clear_border, invert_affine, place_resized, warp_batch
from retalking_core.networks.inference import upload
from retalking_core.numerics import smoothstep
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


def template_transforms(
    landmarks: NDArray[Any], template: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(picture to template, template to picture), f64 [B, 2, 3], continuous px both.

    landmarks: [B, 68, 2]; template: five points in a 512 crop; both with pixel centers at integers.
    """
    forward = fit_similarity(five_points(landmarks) + 0.5, np.broadcast_to(template + 0.5, (len(landmarks), 5, 2)))
    return forward, invert_affine(forward)


def enhance(restorer: Restorer, parser: Parser, faces: Tensor, landmarks: NDArray[Any]) -> Tensor:
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


def restore(restorer: Restorer, parser: Parser, pictures: Tensor, landmarks: NDArray[Any]) -> RestoredFace:
    """pictures: f32 [B, 3, R, R], BGR 0..255; landmarks: [B, 68, 2] px of them."""
    side = pictures.shape[-1]
    forward, back = template_transforms(landmarks, GFPGAN_TEMPLATE)
    aligned = warp_batch(pictures, back, FACE_PX, FACE_PX).flip(1)
    restored = restorer(to_signed(aligned)).clamp(-1, 1)
    parts = parse_face(parser, restored)
    face, mouth = (warp_batch(mask, forward, side, side, outside="zeros") for mask in (parts.face, parts.mouth))
    return RestoredFace(warp_batch(from_signed(restored).flip(1), forward, side, side), face, mouth)


# Cells of the coarsest band across the face box. The original has 2 to 16, depending on how large the face is in the
# frame; its coarse bands carry the skin's shade across the seam.
CELLS = 8
MIN_LEVELS, MAX_LEVELS = 3, 7
# Room around the box in which the change fades out, as a share of its side.
FADE_ROOM = 0.125


@dataclass(frozen=True)
class BlendPlan:
    """levels: of both pyramids. boxes: f32 [B, 4] of the lip network: left, top, right, bottom, continuous px."""

    levels: int
    boxes: Tensor


def pyramid_levels(box_px: float) -> int:
    """Levels for a face box of this size: the coarsest band has about `CELLS` cells across it."""
    return int(np.clip(round(math.log2(max(box_px, 1) / CELLS)) + 1, MIN_LEVELS, MAX_LEVELS))


def paste_prediction(pictures: Tensor, prediction: Tensor, boxes: Tensor) -> Tensor:
    """Regions with the speaking face in its box. pictures: f32 [B, 3, R, R] 0..255; prediction: [B, 3, n, n] 0..1."""
    side = pictures.shape[-1]
    placed, cover = place_resized(prediction * 255, boxes, side, side)
    return pictures + (placed - pictures) * cover


def composite(originals: Tensor, pasted: Tensor, restored: RestoredFace, plan: BlendPlan) -> Tensor:
    """What to add to the original regions, f32 [B, 3, R, R], BGR levels.

    First the restored mouth over the pasted prediction, then that face over the original, inside the box.
    """
    side = originals.shape[-1]
    mouth = restored.mouth * box_cover(plan.boxes, side, side)
    spoken = pasted + blend_change(restored.pictures - pasted, mouth, plan.levels)
    face = restored.face * box_cover(plan.boxes, side, side)
    change = blend_change(spoken - originals, face, plan.levels)
    return change * fade_window(plan.boxes, side)


def fade_window(boxes: Tensor, side: int) -> Tensor:
    """1 in each box, falling smoothly to 0 within `FADE_ROOM` around it, f32 [B, 1, side, side]."""
    place = torch.arange(side, device=boxes.device, dtype=torch.float32) + 0.5
    ramps = []
    for low, high in ((boxes[:, 1], boxes[:, 3]), (boxes[:, 0], boxes[:, 2])):
        room = FADE_ROOM * (high - low)[:, None]
        outside = torch.maximum(low[:, None] - place, place - high[:, None]) / room
        t = (1 - outside).clamp(0, 1)
        ramps.append(smoothstep(t))
    return (ramps[0][:, :, None] * ramps[1][:, None, :])[:, None]


def faces_found(restored: RestoredFace, least: float = 0.002) -> Tensor:
    """Whether the parser found a face at all (a share of the region at least), bool [B]."""
    return restored.face.mean(dim=(1, 2, 3)) >= least
