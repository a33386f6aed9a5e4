"""What each network's state dict holds: key, kind of number, shape, and how a synthetic value is drawn."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class TensorSpec:
    """dtype: numpy and torch name. init: recipe of `weights.recipes`."""

    dtype: str
    shape: tuple[int, ...]
    init: tuple[str | float, ...]


Manifest = dict[str, TensorSpec]


@cache
def load_manifest(network: str) -> Manifest:
    """Every key of a network, in checkpoint order. ENet's includes LNet's under `low_res.`."""
    source = resources.files("retalking_core.weights") / "manifests" / f"{network}.json"
    document = json.loads(source.read_text(encoding="utf-8"))
    manifest: Manifest = {}
    for prefix, included in document["include"].items():
        manifest.update({prefix + key: spec for key, spec in load_manifest(included).items()})
    for key, (dtype, shape, init) in document["tensors"].items():
        manifest[key] = TensorSpec(dtype, tuple(shape), tuple(init))
    return manifest
