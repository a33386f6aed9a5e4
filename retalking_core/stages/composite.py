"""The finished face laid into the frame, at the frame's own resolution.

The original squeezes the whole frame through 512 x 512 twice, against black where there is no face, and cuts values
off. Here both blends work on the region around the face and against its real surroundings, and what they add is faded
to exactly 0 before the edge: outside the face every pixel stays as it was decoded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from retalking_core.imaging.pyramid import blend_change
from retalking_core.imaging.resample import box_cover, place_resized
from retalking_core.numerics import smoothstep
from retalking_core.stages.restoration import RestoredFace

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
