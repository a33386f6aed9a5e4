"""Reads the golden vectors of the pipeline: the slices committed beside this file, and the full set where it is."""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

PROJECT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "slices": Path(__file__).parent / "golden",
    "full": Path(os.environ.get("RETALKING_GOLDEN_DIR", PROJECT.parent / "shared" / "golden")) / "pipeline",
}


@dataclass(frozen=True)
class GoldenSet:
    """Arrays of one golden file by name. In a slice, `name@k` holds every k-th row and column of `name`."""

    which: str
    arrays: dict[str, NDArray]

    def __getitem__(self, name: str) -> NDArray:
        return self.arrays[name]

    def has(self, *names: str) -> bool:
        return all(any(key == name or key.startswith(f"{name}@") for key in self.arrays) for name in names)

    def require(self, *names: str) -> None:
        """Skip the test where a slice leaves an array out for its size; the full set has to hold it."""
        missing = [name for name in names if not self.has(name)]
        assert not (missing and self.which == "full"), missing
        if missing:
            pytest.skip(f"the slices leave out {', '.join(missing)} for their size")

    def pick(self, cases: list[str], *suffixes: str, prefix: str = "") -> list[str]:
        """The cases whose arrays are here: all of them in the full set, at least one in the slices."""
        names = {case: [f"{prefix}{case}{suffix}" for suffix in suffixes or ("",)] for case in cases}
        here = [case for case in cases if self.has(*names[case])]
        assert here == cases if self.which == "full" else here, (cases, here)
        return here

    def check(self, name: str, actual: object, worst: float, mean: float | None = None) -> None:
        """No value further off than `worst`, nor all of them on average than `mean`."""
        stored, own = self._stored(name, np.asarray(actual))
        assert own.shape == stored.shape, (name, own.shape, stored.shape)
        difference = np.abs(own.astype(np.float64) - stored.astype(np.float64))
        figures = f"{name}: worst {difference.max():.3g} of {worst:g}, mean {difference.mean():.3g}"
        print(figures)
        assert np.isfinite(difference).all(), name
        assert difference.max() <= worst, figures
        assert mean is None or difference.mean() <= mean, f"{figures} of {mean:g}"

    def _stored(self, name: str, actual: NDArray) -> tuple[NDArray, NDArray]:
        if name in self.arrays:
            return self.arrays[name], actual
        key = next(key for key in self.arrays if key.startswith(f"{name}@"))
        stride = int(key.rsplit("@", 1)[1])
        return self.arrays[key], actual[::stride, ::stride]


def read_golden(which: str, file: str) -> GoldenSet | None:
    """None where the file is not there."""
    path = FOLDERS[which] / f"{file}.npz"
    if not path.exists():
        return None
    with np.load(path) as stored:
        arrays = dict(stored)
    inputs = FOLDERS[which] / "inputs.npz"
    if which == "slices" and inputs.exists():
        with np.load(inputs) as common:
            arrays = dict(common) | arrays
    return GoldenSet(which, arrays)


def triangle_pattern(height: int, width: int, parameters: NDArray) -> NDArray[np.uint8]:
    """The test picture `tri` of the golden README; parameters: rows a, b, c with a number a channel."""
    a, b, c = np.asarray(parameters, np.int64)
    y, x = np.mgrid[:height, :width][..., None]
    return np.abs((a * x + b * y + c) % 510 - 255).astype(np.uint8)


def named_pattern_parameters(name: str) -> NDArray[np.int64]:
    """Parameters of a pattern that the full set names but does not store: its README states them."""
    text = (FOLDERS["full"] / "README.md").read_text()
    stated = re.search(rf"\b{name} = (\(\([-\d, ]+\)(?:, ?\([-\d, ]+\))*\))", text)
    assert stated, f"the README of the golden set does not state {name}"
    return np.array(ast.literal_eval(stated[1]))
