"""What goes into the lip network and comes out of it (spec: boxes-and-batches 3 to 5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retalking_core.engines.original.imaging import truncate_u8
from retalking_core.engines.original.resize import resize_bilinear
from retalking_core.imaging.upload import upload
from retalking_core.stages.reference import insert_original

LIP_PX = 384
BATCH = 16


class LipNetwork(Protocol):
    """ENet: sound [B, 1, 80, 16], face [B, 6, 384, 384], reference [B, 3, 384, 384] -> (picture, low resolution)."""

    def __call__(
        self, audio: Tensor, face: Tensor, reference: Tensor, noises: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class LipBatch:
    """Up to 16 items of the original's data generator.

    six: f32 [B, 6, n, n] in 0..1: the face with its lower half 0, then the reference, BGR each. sound: f32
    [B, 1, 80, 16]. faces: f32 [B, 3, n, n], the unmasked faces, BGR 0..1. frames: i64 [B] source frame of each.
    """

    six: NDArray[np.float32]
    sound: NDArray[np.float32]
    faces: NDArray[np.float32]
    frames: NDArray[np.int64]


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


def hold_noises(sizes: Sequence[int], seed: int, device: torch.device | str) -> list[Tensor]:
    """One draw of standard normal noise a size, f32 [1, 1, n, n], the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return [upload(torch.randn(1, 1, size, size, generator=generator), device) for size in sizes]


def lip_batches_original(
    frames: NDArray[np.uint8],
    references: NDArray[np.uint8],
    boxes: NDArray[np.int64],
    sound: NDArray[np.float32],
    static: bool = False,
    size: int = LIP_PX,
    batch: int = BATCH,
) -> Iterator[LipBatch]:
    """The original's data generator: one item a sound window, frames reused from the start when they run out.

    frames, references: u8 [N, H, W, 3] BGR; boxes: i64 [N, 4] y1, y2, x1, x2; sound: f32 [M, 80, 16].
    """
    order = np.zeros(len(sound), int) if static else np.arange(len(sound)) % min(len(frames), len(sound))
    for start in range(0, len(sound), batch):
        used = order[start : start + batch]
        faces = np.stack([_cut(frames[j], boxes[j], size) for j in used])
        masked = faces.copy()
        masked[:, size // 2 :] = 0
        pasted = np.stack([_cut(references[j], boxes[j], size) for j in used])
        six = np.concatenate([masked, pasted], axis=3) / 255.0
        yield LipBatch(
            six.transpose(0, 3, 1, 2).astype(np.float32),
            sound[start : start + batch, None].astype(np.float32),
            faces.transpose(0, 3, 1, 2).astype(np.float32) / 255,
            used,
        )


def full_references_original(
    frames: NDArray[np.uint8], faces: NDArray[np.uint8], landmarks: NDArray, box: tuple[int, int, int, int]
) -> NDArray[np.uint8]:
    """The frames with their stabilized faces put in, u8 [N, H, W, 3]. box: Y1, Y2, X1, X2 of the first-frame crop."""
    return np.stack([insert_original(*item, box) for item in zip(frames, faces, landmarks, strict=True)])


def predicted_u8_original(prediction: Tensor) -> NDArray[np.uint8]:
    """The network's picture as the original stores it: truncated, u8 [B, n, n, 3]."""
    return truncate_u8((prediction.clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy())


def _cut(picture: NDArray[np.uint8], box: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    y1, y2, x1, x2 = box
    return resize_bilinear(picture[y1:y2, x1:x2], size, size)
