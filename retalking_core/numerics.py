"""Small numeric helpers: matrix products in the calling thread, and the smooth step."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Values = TypeVar("Values", bound=Any)
# Multiplications of one product up to which OpenBLAS calls no other thread.
MOST_MULTIPLICATIONS = 1 << 18
# A tile of fewer rows would be a product with vectors, which is slow.
LEAST_ROWS = 32


def tiled_matmul(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """`one @ other`, [m, k] by [..., k, n], a tile at a time.

    OpenBLAS's threads wait for each other, and for the next product, by spin-waiting, on cores that decode and
    encode. Drawing a frame took 4.4 ms of CPU time with them instead of 1.1 under load; a single large product (the
    mel spectrogram's) kept a core busy for 0.1 s.
    """
    rows, inner = one.shape
    columns = other.shape[-1]
    out = np.empty((*other.shape[:-2], rows, columns), np.result_type(one, other))
    width = max(1, min(columns, MOST_MULTIPLICATIONS // (inner * min(rows, LEAST_ROWS))))
    height = max(1, MOST_MULTIPLICATIONS // (inner * width))
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            part = np.s_[..., top : top + height, left : left + width]
            np.matmul(one[top : top + height], other[..., left : left + width], out=out[part])
    return out


def smoothstep(t: Values) -> Values:
    """3 t^2 - 2 t^3 of values in 0..1, arrays and tensors alike: a ramp with level ends."""
    return t * t * (3 - 2 * t)
