"""Synthetic weights: every tensor from its own seeded generator, so that any machine draws the same values.

The generator of a tensor is PCG64(crc32("seed:network:key")); draws are made in float64 and cast at the end. Needs
numpy only. The recipe is that of the golden vectors.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from retalking_core.weights.manifest import Manifest

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
