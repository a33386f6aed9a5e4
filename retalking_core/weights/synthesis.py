"""Synthetic checkpoints in the layouts of the official files, for machines that do not have those.

They load, run and cost what the official ones do, but were never trained. Each file carries a mark inside
(`checkpoint.synthetic_seed`). Every tensor has its own generator, PCG64(crc32("seed:network:key")), so that all
machines draw the same values; the golden vectors were made with the same recipe."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retalking_core.digests import file_sha256
from retalking_core.weights.checkpoint import SYNTHETIC_RECORD
from retalking_core.weights.table import (
    NETWORK_FILES,
    WEIGHT_FILES,
    LockedFile,
    Manifest,
    WeightFile,
    load_manifest,
    record,
)

POWER_ITERATIONS = 15  # on purpose not fully converged: then the stored u and v matter
SINGULAR_SIDES = {"left_singular": 0, "right_singular": 1}


def tensor_generator(seed: int, network: str, key: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{network}:{key}".encode())))


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _singular_vectors(
    weight: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(u, v) of a weight flattened to [out, rest], by power iteration."""
    matrix = weight.reshape(weight.shape[0], -1).astype(np.float64)
    u = _unit(rng.standard_normal(matrix.shape[0]))
    v = u
    for _ in range(POWER_ITERATIONS):
        v = _unit(matrix.T @ u)
        u = _unit(matrix @ v)
    return u, v


def _singular_pair(
    manifest: Manifest, network: str, seed: int, base: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(u, v) of the weight `{base}_orig`, which is drawn anew: it may stand anywhere in the manifest."""
    spec = manifest[f"{base}_orig"]
    weight = draw(spec.init, spec.shape, tensor_generator(seed, network, f"{base}_orig")).astype(np.float32)
    return _singular_vectors(weight, tensor_generator(seed, network, f"{base}_u"))


def draw(init: tuple[str | float, ...], shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """One tensor of the recipes that need no other tensor."""
    match init:
        case ("normal", mean, deviation):
            return float(mean) + float(deviation) * rng.standard_normal(shape)
        case ("uniform", low, high):
            return rng.uniform(float(low), float(high), shape)
        case ("constant", value):
            return np.full(shape, value, dtype=np.float64)
        case ("fir", gain):
            taps = np.array([1.0, 3.0, 3.0, 1.0]) / 8.0
            return float(gain) * np.outer(taps, taps)
    raise ValueError(f"unknown recipe {init}")


def draw_weights(manifest: Manifest, network: str, seed: int) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """(key, array) in the manifest's order, one at a time."""
    base, pair = "", None
    for key, spec in manifest.items():
        if spec.init[0] in SINGULAR_SIDES:
            # u and v stand next to each other: one power iteration serves both
            if pair is None or base != key[: -len("_u")]:
                base = key[: -len("_u")]
                pair = _singular_pair(manifest, network, seed, base)
            value = pair[SINGULAR_SIDES[str(spec.init[0])]]
        else:
            value = draw(spec.init, spec.shape, tensor_generator(seed, network, key))
        yield key, np.asarray(value, dtype=spec.dtype)


def synthetic_state_dict(network: str, seed: int) -> dict[str, Tensor]:
    """Tensors of the bare network."""
    drawn = draw_weights(load_manifest(network), network, seed)
    return {key: torch.from_numpy(np.array(value)) for key, value in drawn}


def wrap_state_dict(state: dict[str, Tensor], entry: WeightFile) -> object:
    """Nested and prefixed as the official file is, with a neighbor beside a nested state dict as those have."""
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
        locked = LockedFile(file_sha256(partial), partial.stat().st_size, f"synthetic, seed {seed}")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    record(folder, entry.file, locked)
    return path


def synthesize(
    folder: Path,
    seed: int,
    names: Iterable[str] = NETWORK_FILES,
    report: Callable[[Path], None] = lambda path: None,
) -> None:
    """A full set (about 2.6 GB) or the named files."""
    for name in names:
        report(write_checkpoint(folder, WEIGHT_FILES[name], seed))
