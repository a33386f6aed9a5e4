"""Expression stabilization: 3DMM coefficients of every frame, their windows, and DNet with a steady expression.

A coefficient row has 262 numbers: identity 80, expression 64, texture 80, Euler angles 3, lighting 27, translation 3
(the regressor's 257), then width, height, s, tx, ty of the alignment. DNet redraws each face with one expression, so
that the lip network's reference does not already speak.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retalking_core.errors import OptionUnsupportedError
from retalking_core.faces.landmarks import STANDARD_FIVE, fit_orthographic, five_points_3dmm
from retalking_core.imaging import resampling_matrix
from retalking_core.networks.inference import upload
from retalking_core.weights.checkpoint import read_templates
from retalking_core.weights.table import WEIGHT_FILES

ALIGNED_PX = 224
# Scale of the standard face in the aligned picture, px a unit.
TARGET_SCALE = 102.0
EXPRESSION, ANGLES, TRANSLATION, PLACEMENT = slice(80, 144), slice(224, 227), slice(254, 257), slice(259, 262)
WINDOW_BEFORE, WINDOW_LENGTH = 13, 26
EXPRESSION_ROWS, SCALE_ROW = 64, 70
NO_FACE = -1.0


@dataclass(frozen=True)
class FaceAlignment:
    """Where a batch of faces lies. parameters: f64 [B, 5] W, H, s, tx, ty (y up). resized: i64 [B, 2] width, height of
    the whole picture brought to scale; corner: i64 [B, 2] left, top of the 224 crop in it."""

    parameters: NDArray[np.float64]
    resized: NDArray[np.int64]
    corner: NDArray[np.int64]


def align_faces(landmarks: NDArray[Any], width: int, height: int) -> FaceAlignment:
    """From 68 landmarks (px of the picture, y down), [B, 68, 2]. Landmarks that are all -1 mean no face: the standard
    face in the middle of the picture."""
    five = five_points_3dmm(landmarks)
    five[..., 1] = height - 1 - five[..., 1]
    missing = (np.asarray(landmarks).mean(axis=(-1, -2)) == NO_FACE)[:, None, None]
    return align_five_points(np.where(missing, standard_place(width, height), five), width, height)


def standard_place(width: int, height: int) -> NDArray[np.float64]:
    """The five standard points in a picture without a face, f64 [5, 2], y up."""
    return (STANDARD_FIVE[:, :2].astype(np.float64) + 1) / 2 * (width, height)


def align_five_points(five_y_up: NDArray[Any], width: int, height: int) -> FaceAlignment:
    """From five points [B, 5, 2], y up. Sizes and corners are truncated as the original does."""
    length, shift = fit_orthographic(five_y_up)
    scale = TARGET_SCALE / length
    resized = np.trunc(np.stack([width * scale, height * scale], axis=1)).astype(np.int64)
    from_middle = np.stack([shift[:, 0] - width / 2, height / 2 - shift[:, 1]], axis=1) * scale[:, None]
    corner = np.trunc(resized / 2 - ALIGNED_PX / 2 + from_middle).astype(np.int64)
    size = np.broadcast_to([width, height], (len(scale), 2))
    return FaceAlignment(np.concatenate([size, scale[:, None], shift], axis=1), resized, corner)


def crop_aligned(pictures: Tensor, alignment: FaceAlignment) -> Tensor:
    """The regressor's input f32 [B, 3, 224, 224], RGB 0..1, from pictures f32 [B, 3, H, W], RGB 0..255.

    Antialiased bicubic, rounded to 8 bit between and after the passes as Pillow does; black outside.
    """
    matrices = []
    for axis, length in ((0, pictures.shape[3]), (1, pictures.shape[2])):
        size = upload(alignment.resized[:, axis], pictures.device)
        first = upload(alignment.corner[:, axis], pictures.device)
        step = length / size.double()
        weights = resampling_matrix(first * step, step, length, ALIGNED_PX, "bicubic")
        place = first[:, None] + torch.arange(ALIGNED_PX, device=pictures.device)
        matrices.append(weights * ((place >= 0) & (place < size[:, None]))[..., None])
    columns, rows = matrices
    across = (pictures @ columns.transpose(1, 2)[:, None]).round().clamp(0, 255)
    return (rows[:, None] @ across).round().clamp(0, 255) / 255


def regress_coefficients(regressor: Callable[[Tensor], Tensor], pictures: Tensor, landmarks: NDArray[Any]) -> Tensor:
    """f32 [B, 262], on the device, of faces in pictures f32 [B, 3, H, W] (RGB 0..255) at landmarks [B, 68, 2] px of
    them.

    regressor: Deep3D, [B, 3, 224, 224] -> [B, 257].
    """
    alignment = align_faces(landmarks, pictures.shape[3], pictures.shape[2])
    known = regressor(crop_aligned(pictures, alignment)).float()
    return torch.cat([known, upload(alignment.parameters, known.device)], dim=1)


def window_indices(frames: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Frames 13 before to 12 after each, clamped to the clip, i64 [B, 26]."""
    return np.clip(np.asarray(frames)[:, None] + np.arange(WINDOW_LENGTH) - WINDOW_BEFORE, 0, count - 1)


def semantic_windows(
    coefficients: NDArray[np.float32],
    frames: NDArray[np.int64],
    template: NDArray[Any] | None = None,
) -> NDArray[np.float32]:
    """What the expression network is conditioned on, f32 [B, 73, 26].

    coefficients: [N, 262] of the clip. Rows: expression 64, angles 3, translation 3, s, tx, ty.
    template: at least 64 numbers that replace the expression in all columns.
    """
    rows = np.concatenate([coefficients[:, part] for part in (EXPRESSION, ANGLES, TRANSLATION, PLACEMENT)], axis=1)
    windows = rows[window_indices(frames, len(coefficients))].transpose(0, 2, 1).astype(np.float32)
    if template is not None:
        windows[:, :EXPRESSION_ROWS] = np.asarray(template, np.float32)[:EXPRESSION_ROWS, None]
    return windows


class StabilizedFace(NamedTuple):
    """What DNet gives: `fake_image` [B, 3, 256, 256], RGB about -1..1, is the face."""

    flow_field: Tensor
    warp_image: Tensor
    fake_image: Tensor


class ExpressionNetwork(Protocol):
    def __call__(self, image: Tensor, semantics: Tensor) -> StabilizedFace: ...


def to_signed(pictures: Tensor) -> Tensor:
    """0..255 to -1..1."""
    return (pictures / 255 - 0.5) / 0.5


def from_signed(pictures: Tensor) -> Tensor:
    """-1..1, clamped, to 0..255 without rounding."""
    return (pictures.clamp(-1, 1) + 1) / 2 * 255


def stabilize(network: ExpressionNetwork, pictures: Tensor, windows: Tensor) -> Tensor:
    """Faces with the template's expression, f32 [B, 3, 256, 256], RGB 0..255.

    pictures: f32 [B, 3, 256, 256], RGB 0..255; windows: f32 [B, 73, 26] (`semantic_windows`).
    """
    return from_signed(network(to_signed(pictures), windows).fake_image)


def load_template(word: str, file: Path | None) -> NDArray[np.float32]:
    """The 64 expression numbers of `neutral` or `smile`.

    file: the original's MATLAB file. Without it `neutral` is the mean face of the 3DMM, whose expression is zero by
    definition; the original's `neutral` is another one. Raises: OptionUnsupportedError for `smile` without the file; a
    WeightsError for a file that is damaged or of another shape.
    """
    if file is not None and file.is_file():
        return read_templates(file)[word]
    if word == "neutral":
        return np.zeros(EXPRESSION_ROWS, np.float32)
    raise OptionUnsupportedError(
        f"The expression `{word}` needs {WEIGHT_FILES['expression'].file}, which is not in the weights folder; run "
        "`retalking weights fetch expression`, use `neutral`, or send a picture of the expression.",
        option="expression",
    )


def expression_of(coefficients: NDArray[np.float32]) -> NDArray[np.float32]:
    """The template that a picture's own face gives: its 64 expression numbers, from a row of 262."""
    return coefficients[80 : 80 + EXPRESSION_ROWS]
