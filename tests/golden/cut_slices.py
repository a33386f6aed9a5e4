"""Cuts the committed slices out of a full golden set: the same layout, every stored part thinned to a few values.

python tests/golden/cut_slices.py FULL_GOLDEN_FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
MOST_VALUES = 1500  # of one stored part


def thin(part: list[list[int]], stored: NDArray[np.float32]) -> tuple[list[list[int]], NDArray[np.float32]]:
    """Keeps every k-th entry along the last two axes, and along the channels where that is not enough."""
    part = [list(bounds) for bounds in part]
    axis = 0
    while stored.size > MOST_VALUES:
        at = (stored.ndim - 1, stored.ndim - 2, max(stored.ndim - 3, 0))[axis % 3]
        step = 3 if at >= stored.ndim - 2 else 2
        if stored.shape[at] >= 8:
            part[at][2] *= step
            stored = stored[(slice(None),) * at + (slice(None, None, step),)]
        axis += 1
    return part, stored


def cut(source: Path, target: Path) -> None:
    document = json.loads((source / "golden.json").read_text())
    with np.load(source / "golden.npz") as full:
        arrays = {key: full[key] for key in full.files if key.startswith("checkpoint/")}
        for entry in document["outputs"].values():
            for key, part in entry["stored"].items():
                entry["stored"][key], arrays[f"output/{key}"] = thin(part, full[f"output/{key}"])
    target.mkdir(parents=True, exist_ok=True)
    (target / "golden.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")
    np.savez_compressed(target / "golden.npz", **arrays)


if __name__ == "__main__":
    for folder in sorted((Path(sys.argv[1]) / "networks").iterdir()):
        cut(folder, HERE / "networks" / folder.name)
