"""Writes synthetic checkpoints in the layouts of the official files, for machines where those are not to be had.

They load, run and cost what the real ones do, but were never trained. Each file carries a mark inside
(`checkpoint.synthetic_seed`), so that whatever is made with them can be told from the real thing.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from retalking_core.weights.checkpoint import SYNTHETIC_RECORD
from retalking_core.weights.lock import LockedFile, digest_of, record
from retalking_core.weights.manifest import load_manifest
from retalking_core.weights.recipes import draw_weights
from retalking_core.weights.table import WEIGHT_FILES, WeightFile


def synthetic_state_dict(network: str, seed: int) -> dict[str, Tensor]:
    """Tensors of the bare network."""
    drawn = draw_weights(load_manifest(network), network, seed)
    return {key: torch.from_numpy(np.array(value)) for key, value in drawn}


def wrap_state_dict(state: dict[str, Tensor], entry: WeightFile) -> object:
    """Nested and prefixed as the official file is, with a neighbour beside a nested state dict as those have."""
    wrapped = {entry.layout.wrapped_key(key): value for key, value in state.items()}
    nesting = entry.layout.nesting[0]
    return {nesting: wrapped, "epoch": 0} if nesting else wrapped


def write_checkpoint(folder: Path, entry: WeightFile, seed: int) -> Path:
    """One file: to a temporary name, marked, renamed, recorded in the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    path, partial = folder / entry.file, folder / f"{entry.file}.{os.getpid()}.part"
    try:
        torch.save(wrap_state_dict(synthetic_state_dict(entry.network, seed), entry), partial)
        with zipfile.ZipFile(partial, "a") as archive:
            root = archive.namelist()[0].split("/")[0]
            archive.writestr(f"{root}/{SYNTHETIC_RECORD}", str(seed))
        locked = LockedFile(digest_of(partial), partial.stat().st_size, f"synthetic, seed {seed}")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    record(folder, entry.file, locked)
    return path


def synthesize(
    folder: Path,
    seed: int,
    names: Iterable[str] = tuple(WEIGHT_FILES),
    report: Callable[[Path], None] = lambda path: None,
) -> None:
    """A full set (about 2.6 GB) or the named files."""
    for name in names:
        report(write_checkpoint(folder, WEIGHT_FILES[name], seed))
