"""Reference enhancement: GPEN restores the stabilized face (spec: restoration-compositing 5, mode A).

The original detects the face again; here the tracked landmarks say where it is. Floats throughout: the original cuts
values off twice on the way.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from retalking_core.engines.original.warp import invert_affine
from retalking_core.faces.alignment import GPEN_TEMPLATE, fit_similarity, five_points
from retalking_core.imaging.affine import warp_batch
from retalking_core.stages.parsing import Parser, parse_face
from retalking_core.stages.stabilize import from_signed, to_signed

FACE_PX = 512
# Faces [B, 3, 512, 512], RGB -1..1, to the same, unbounded.
Restorer = Callable[[Tensor], Tensor]


def template_transforms(landmarks: NDArray, template: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(picture to template, template to picture), f64 [B, 2, 3], continuous px both.

    landmarks: [B, 68, 2]; template: five points in a 512 crop; both with pixel centres at integers.
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
