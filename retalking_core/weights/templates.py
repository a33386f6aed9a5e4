"""The method's expression templates: a MATLAB file of 3DMM expression coefficients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat, whosmat

from retalking_core.errors import WeightsShapeMismatchError, WeightsTruncatedError, WeightsWrongFileError

COEFFICIENTS = 64
TEMPLATE_KEYS = {"neutral": "expression_center", "smile": "expression_mouth"}
MAX_ELEMENTS = 10_000_000  # the variables are compressed: bounded before they are unpacked


def read_templates(path: Path, name: str | None = None) -> dict[str, NDArray[np.float32]]:
    """f32 [64] of `neutral` and `smile`: row 0 of 2-D variables with at least 64 columns. Only these are read.

    name: for messages, where the file has another one yet.

    Raises: weights_wrong_file, weights_truncated,
    weights_shape_mismatch.
    """
    name = name or path.name
    try:
        shapes = {variable: shape for variable, shape, _kind in whosmat(path, appendmat=False)}
    except Exception as error:  # the reader of MATLAB files raises what it stumbles over
        raise WeightsWrongFileError(f"{name} is not a MATLAB 5 file", file=name) from error
    missing = [key for key in TEMPLATE_KEYS.values() if key not in shapes]
    if missing:
        raise WeightsWrongFileError(f"{name} has no variable {' and '.join(missing)}", file=name)
    for key in TEMPLATE_KEYS.values():
        shape = shapes[key]
        if len(shape) != 2 or shape[0] < 1 or shape[1] < COEFFICIENTS or np.prod(shape) > MAX_ELEMENTS:
            wanted = f"2-D with at least {COEFFICIENTS} columns"
            raise WeightsShapeMismatchError(f"{name}: {key} is {list(shape)}, not {wanted}", file=name, tensors=[key])
    try:
        content: dict[str, Any] = loadmat(path, appendmat=False, variable_names=list(TEMPLATE_KEYS.values()))
    except Exception as error:
        raise WeightsTruncatedError(f"{name} ends too early or is damaged", file=name) from error
    return {word: _first_row(content.get(key), key, name) for word, key in TEMPLATE_KEYS.items()}


def _first_row(values: object, key: str, file: str) -> NDArray[np.float32]:
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu" or values.ndim != 2:
        raise WeightsShapeMismatchError(f"{file}: {key} holds no real numbers", file=file, tensors=[key])
    row = values[0, :COEFFICIENTS].astype(np.float32)
    if not np.isfinite(row).all():
        raise WeightsShapeMismatchError(f"{file}: {key} holds numbers that are not finite", file=file, tensors=[key])
    return row
