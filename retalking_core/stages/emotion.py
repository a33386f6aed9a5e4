"""The upper half of the face: as it was, as the network draws it, or with another emotion."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from retalking_core.device import upload

EMOTION_PX = 128
ACTION_UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
# Strength of the action units that are not 0.
EMOTIONS: dict[str, dict[int, float]] = {"sad": {}, "angry": {4: 0.3}, "surprise": {5: 0.2}}
# Half height, as a share of the face, of the seam between the two halves.
SEAM = 0.03


class Edit(NamedTuple):
    """color [B, 3, 128, 128] in -1..1, attention [B, 1, 128, 128] (high: the input is kept), and both composed."""

    color: Tensor
    attention: Tensor
    composed: Tensor


class EmotionNetwork(Protocol):
    def __call__(self, image: Tensor, action_units: Tensor) -> Edit: ...


def action_units(emotion: str, count: int) -> NDArray[np.float32]:
    """f32 [count, 17] in GANimation's order. Raises: KeyError for an unknown word."""
    strengths = EMOTIONS[emotion]
    return np.tile(np.array([strengths.get(unit, 0.0) for unit in ACTION_UNITS], np.float32), (count, 1))


def to_network_size(faces: Tensor) -> Tensor:
    """BGR 0..1 [B, 3, n, n] to -1..1 [B, 3, 128, 128], bilinear without antialiasing."""
    return F.interpolate(2 * faces - 1, size=EMOTION_PX, mode="bilinear", align_corners=False)


def to_face_size(edited: Tensor, size: int) -> Tensor:
    """-1..1 to 0..1 at n x n, by the same rule."""
    return F.interpolate(edited / 2 + 0.5, size=size, mode="bilinear", align_corners=False)


def compose_edit(color: Tensor, attention: Tensor, source: Tensor) -> Tensor:
    return attention * source + (1 - attention) * color


def edit_emotion(network: EmotionNetwork, faces: Tensor, emotion: str) -> Tensor:
    """Faces with the emotion at their own sharpness, f32 [B, 3, n, n], BGR 0..1.

    The network sees RGB, as it was trained. Only the change that it makes at 128 is enlarged and added, so that what it
    leaves alone stays as sharp as it was.
    """
    units = upload(action_units(emotion, len(faces)), faces.device)
    source = to_network_size(faces.flip(1))
    change = (network(source, units).composed - source).flip(1) / 2
    enlarged = F.interpolate(change, size=faces.shape[-1], mode="bicubic", align_corners=False)
    return (faces + enlarged).clamp(0, 1)


def compose_halves(prediction: Tensor, upper: Tensor) -> Tensor:
    """The network's picture in the lower half, `upper` above it, with a soft seam. f32 [B, 3, n, n] BGR 0..1."""
    size = prediction.shape[-2]
    row = (torch.arange(size, device=prediction.device) + 0.5) / size
    weight = ((row - 0.5) / (2 * SEAM) + 0.5).clamp(0, 1)[:, None]
    return upper + (prediction - upper) * weight


def redraw_upper_half(network: Callable[[], EmotionNetwork], prediction: Tensor, faces: Tensor, emotion: str) -> Tensor:
    """The prediction with the upper half that the caller asked for.

    `original` keeps what the lip network drew, as the method's own default does; an emotion takes the edited face.
    """
    if emotion == "original":
        return prediction
    return compose_halves(prediction, edit_emotion(network(), faces, emotion))
