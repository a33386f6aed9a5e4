"""The lip network's inputs and output: reference, masked face and sound in, speaking face out.

Inside the oriented square around the face the reference shows the stabilized face, outside it the frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retalking_core.device import upload
from retalking_core.engines.original.imaging import (
    perspective_coefficients,
    resize_bilinear,
    truncate_u8,
    warp_perspective,
    warp_quad,
)
from retalking_core.faces.alignment import oriented_square
from retalking_core.imaging.resample import crop_resized, resampling_matrix
from retalking_core.stages.face_crop import CROP_PX

# Softness of the square's edge in pixels of the 256 crop. The original pastes it hard.
EDGE_PX = 4.0


def quad_crop_original(face: NDArray[np.uint8], quad: NDArray[np.float64], size: int = CROP_PX) -> NDArray[np.uint8]:
    """The face inside a quad (corners in pixel centres), upright, u8 [size, size, 3]; black beyond the picture.

    A quad whose diagonal has more than four times the size is read from a picture shrunk by a whole factor (Lanczos).
    (The specification says side; the golden vector was made with the diagonal. Faces of 256 never get there.)
    """
    factor = int(np.floor(float(np.linalg.norm(quad[2] - quad[0])) / size * 0.5))
    if factor > 1:
        face, quad = _shrunk(face, factor), quad / factor
    return warp_quad(face, quad + 0.5, size, size)


def paste_coefficients(quad: NDArray[np.float64], size: int = CROP_PX) -> NDArray[np.float64]:
    """k0..k7 of the map from the patch to the upright crop of a quad."""
    corners = np.array([[0, 0], [0, size], [size, size], [size, 0]], np.float64)
    return perspective_coefficients(quad + 0.5, corners)


def paste_original(face: NDArray[np.uint8], landmarks: NDArray, patch: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The face in its square over a 256 patch of the frame, hard edged; both u8 [256, 256, 3] BGR."""
    quad = oriented_square(landmarks).corners
    crop = quad_crop_original(face, quad)
    warped, inside = warp_perspective(crop, paste_coefficients(quad), CROP_PX, CROP_PX)
    return np.where(inside[..., None], warped, patch)


def insert_original(
    frame: NDArray[np.uint8], face: NDArray[np.uint8], landmarks: NDArray, box: tuple[int, int, int, int]
) -> NDArray[np.uint8]:
    """A copy of the frame with the face in it. box: Y1, Y2, X1, X2 of the first-frame crop."""
    y1, y2, x1, x2 = box
    patch = resize_bilinear(frame[y1:y2, x1:x2], CROP_PX, CROP_PX)
    result = frame.copy()
    result[y1:y2, x1:x2] = resize_bilinear(paste_original(face, landmarks, patch), x2 - x1, y2 - y1)
    return result


def build_references(originals: Tensor, faces: Tensor, landmarks: NDArray, boxes: Tensor) -> Tensor:
    """References f32 [B, 3, n, n] cut by the face box, in one resampling instead of the original's three.

    originals: f32 [B, 3, n, n], the frame cut by the same box. faces: f32 [B, 3, 256, 256], same colours. landmarks:
    [B, 68, 2] px of the 256 crop. boxes: f32 [B, 4] left, top, right, bottom of the face box in continuous px of the
    256 crop.
    """
    size = originals.shape[-1]
    inserted = crop_resized(faces, boxes, size)
    weight = square_mask(landmarks, boxes, size)
    return originals + (inserted - originals) * weight


def square_mask(landmarks: NDArray, boxes: Tensor, size: int) -> Tensor:
    """How far each pixel of an n x n picture of the box lies in the oriented square (and in the crop), 0..1."""
    square = oriented_square(landmarks)
    device = boxes.device
    half = upload(square.side / 2, device)[:, None, None]
    unit = upload(square.across / (square.side[:, None] / 2), device)
    centre = upload(square.centre + 0.5, device)
    order = (torch.arange(size, device=device) + 0.5) / size
    x = boxes[:, 0, None] + order * (boxes[:, 2] - boxes[:, 0])[:, None]
    y = boxes[:, 1, None] + order * (boxes[:, 3] - boxes[:, 1])[:, None]
    dx, dy = (x - centre[:, 0, None])[:, None, :], (y - centre[:, 1, None])[:, :, None]
    along = (dx * unit[:, 0, None, None] + dy * unit[:, 1, None, None]).abs()
    down = (dy * unit[:, 0, None, None] - dx * unit[:, 1, None, None]).abs()
    to_side = half - torch.maximum(along, down)
    crop_x, crop_y = torch.minimum(x, CROP_PX - x)[:, None, :], torch.minimum(y, CROP_PX - y)[:, :, None]
    distance = torch.minimum(to_side, torch.minimum(crop_x, crop_y))
    return (distance / EDGE_PX).clamp(0, 1)[:, None]


def _shrunk(face: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Lanczos, across first, rounded to 8 bit after each pass (Pillow's order)."""
    picture = torch.from_numpy(face.astype(np.float32)).permute(2, 0, 1)
    for _ in ("across", "down"):
        length = picture.shape[2]
        count = int(np.rint(length / factor))
        weights = resampling_matrix(torch.zeros(1), torch.tensor([length / count]), length, count, "lanczos")[0]
        picture = (picture @ weights.T).round().clamp(0, 255).transpose(1, 2)
    return picture.permute(1, 2, 0).numpy().astype(np.uint8)


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
