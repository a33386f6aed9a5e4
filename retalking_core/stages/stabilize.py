"""Expression stabilization: DNet redraws the face of each frame with one steady expression.

The lip network then gets a reference whose mouth does not already speak.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from torch import Tensor

from retalking_core.errors import OptionUnsupportedError
from retalking_core.stages.coefficients import EXPRESSION_ROWS

TEMPLATE_FILE = "expression.mat"
TEMPLATE_KEYS = {"neutral": "expression_center", "smile": "expression_mouth"}


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
    definition. Raises: OptionUnsupportedError for `smile` without the file.
    """
    if file is None or not file.is_file():
        if word == "neutral":
            return np.zeros(EXPRESSION_ROWS, np.float32)
        raise OptionUnsupportedError(
            f"The expression `{word}` needs {TEMPLATE_FILE}, which is not in the weights folder; use `neutral` or send "
            "a picture of the expression.",
            option="expression",
        )
    row = np.atleast_2d(loadmat(file)[TEMPLATE_KEYS[word]])[0]
    return row[:EXPRESSION_ROWS].astype(np.float32)


def expression_of(coefficients: NDArray[np.float32]) -> NDArray[np.float32]:
    """The template that a picture's own face gives: its 64 expression numbers, from a row of 262."""
    return coefficients[80 : 80 + EXPRESSION_ROWS]
