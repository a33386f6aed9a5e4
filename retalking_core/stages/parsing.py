"""Parts of an aligned face as soft masks (ParseNet, 19 classes)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from retalking_core.imaging.masks import blur, clear_border
from retalking_core.imaging.upload import upload

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
