"""Restoration: GFPGAN sharpens the speaking face, ParseNet says where its mouth is (restoration-compositing 1, 2).

The original restores the face nearest to the middle of the picture, aligned by a robust fit that jumps; here it is the
tracked face, aligned by its smoothed landmarks. One parse of the restored face serves mouth and face masks, where the
original runs the parser twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import NDArray
from torch import Tensor

from retalking_core.faces.alignment import GFPGAN_TEMPLATE
from retalking_core.imaging.affine import warp_batch
from retalking_core.stages.enhance import FACE_PX, Restorer, template_transforms
from retalking_core.stages.parsing import Parser, parse_face
from retalking_core.stages.stabilize import from_signed, to_signed


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
