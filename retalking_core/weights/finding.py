"""Where a weight file lies. Needs no torch: a worker without weights must not load gigabytes to find out."""

from __future__ import annotations

from pathlib import Path

from retalking_core.weights.errors import WeightsMissingError
from retalking_core.weights.table import WeightFile


def find_file(folder: Path, entry: WeightFile) -> Path:
    """The entry's file in a folder, under its own name or an alias. Raises weights_missing."""
    for name in (entry.file, *entry.aliases):
        if (folder / name).is_file():
            return folder / name
    raise WeightsMissingError(f"{entry.file} is not in the weights folder", file=entry.file)
