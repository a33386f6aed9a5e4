"""The reference picture of the lip network: the steady face put into the original frame (spec: reference-alignment).

Inside the oriented square around the face the reference shows the stabilized face, outside it the frame.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retalking_core.engines.original.resize import resize_bilinear
from retalking_core.engines.original.warp import perspective_coefficients, warp_perspective, warp_quad
from retalking_core.faces.alignment import oriented_square
from retalking_core.imaging.resample import crop_resized, resampling_matrix
from retalking_core.imaging.upload import upload
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
