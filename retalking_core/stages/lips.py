"""Lip synthesis: reference, masked face and sound in, speaking face out; then the emotion of the upper half.

Inside the oriented square around the face the reference shows the stabilized face, outside it the frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from retalking_core.faces.landmarks import oriented_square
from retalking_core.imaging import crop_resized
from retalking_core.networks.inference import upload
from retalking_core.stages.regions import CROP_PX

# Softness of the square's edge in pixels of the 256 crop. The original pastes it hard.
EDGE_PX = 4.0


def build_references(originals: Tensor, faces: Tensor, landmarks: NDArray[Any], boxes: Tensor) -> Tensor:
    """References f32 [B, 3, n, n] cut by the face box, in one resampling instead of the original's three.

    originals: f32 [B, 3, n, n], the frame cut by the same box. faces: f32 [B, 3, 256, 256], same colors. landmarks:
    [B, 68, 2] px of the 256 crop. boxes: f32 [B, 4] left, top, right, bottom of the face box in continuous px of the
    256 crop.
    """
    size = originals.shape[-1]
    inserted = crop_resized(faces, boxes, size)
    weight = square_mask(landmarks, boxes, size)
    return originals + (inserted - originals) * weight


def square_mask(landmarks: NDArray[Any], boxes: Tensor, size: int) -> Tensor:
    """How far each pixel of an n x n picture of the box lies in the oriented square (and in the crop), 0..1."""
    square = oriented_square(landmarks)
    device = boxes.device
    half = upload(square.side / 2, device)[:, None, None]
    unit = upload(square.across / (square.side[:, None] / 2), device)
    center = upload(square.center + 0.5, device)
    order = (torch.arange(size, device=device) + 0.5) / size
    x = boxes[:, 0, None] + order * (boxes[:, 2] - boxes[:, 0])[:, None]
    y = boxes[:, 1, None] + order * (boxes[:, 3] - boxes[:, 1])[:, None]
    dx, dy = (x - center[:, 0, None])[:, None, :], (y - center[:, 1, None])[:, :, None]
    along = (dx * unit[:, 0, None, None] + dy * unit[:, 1, None, None]).abs()
    down = (dy * unit[:, 0, None, None] - dx * unit[:, 1, None, None]).abs()
    to_side = half - torch.maximum(along, down)
    crop_x, crop_y = torch.minimum(x, CROP_PX - x)[:, None, :], torch.minimum(y, CROP_PX - y)[:, :, None]
    distance = torch.minimum(to_side, torch.minimum(crop_x, crop_y))
    return (distance / EDGE_PX).clamp(0, 1)[:, None]


LIP_PX = 384


class LipNetwork(Protocol):
    """ENet: sound [B, 1, 80, 16], face [B, 6, 384, 384], reference [B, 3, 384, 384] -> (picture, low resolution)."""

    def __call__(
        self, audio: Tensor, face: Tensor, reference: Tensor, noises: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]: ...


def mask_lower_half(faces: Tensor) -> Tensor:
    """The lower half (rows n // 2 and below), which the network draws anew, set to 0."""
    masked = faces.clone()
    masked[..., faces.shape[-2] // 2 :, :] = 0
    return masked


def synthesize_lips(
    network: LipNetwork, faces: Tensor, references: Tensor, sound: Tensor, noises: Sequence[Tensor] | None = None
) -> Tensor:
    """Speaking faces f32 [B, 3, 384, 384], BGR 0..1.

    faces, references: f32 [B, 3, 384, 384], BGR 0..1, cut by the same box; sound: f32 [B, 80, 16] mel windows.
    noises: held still over a job; None leaves noise out.
    """
    six = torch.cat([mask_lower_half(faces), references], dim=1)
    options = {} if noises is None else {"noises": noises}
    return network(sound[:, None], six, references, **options)[0].clamp(0, 1)


def fixed_noise(sizes: Sequence[int], seed: int, device: torch.device | str) -> list[Tensor]:
    """One draw of standard normal noise a size, f32 [1, 1, n, n], the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return [upload(torch.randn(1, 1, size, size, generator=generator), device) for size in sizes]


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
