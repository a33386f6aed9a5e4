"""The networks of one process: loaded when a stage first asks, onto the target device, one copy of each kept."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from retalking_core import networks
from retalking_core.digests import file_sha256
from retalking_core.networks import INPUT_SHAPES
from retalking_core.networks.inference import (
    HALF_DTYPES,
    InferenceNetwork,
    InferenceVariant,
    enable_expandable_segments,
    prepare,
)
from retalking_core.vocabulary.engines import KernelState
from retalking_core.weights.checkpoint import check_digest, read_state_dict, synthetic_seed
from retalking_core.weights.table import WEIGHT_FILES, find_file, read_lock


class NetworkStore:
    """Loads from a folder of weight files. variants: how each network runs; what is not named runs in float32, folded.

    LNet is part of ENet and exists once: it runs as ENet's variant says. Several threads may load at once.
    """

    def __init__(
        self, folder: Path, device: torch.device | str = "cpu", variants: Mapping[str, InferenceVariant] | None = None
    ) -> None:
        self.folder, self.device = folder, torch.device(device)
        self._variants = dict(variants or {})
        self._loaded: dict[str, InferenceNetwork] = {}
        self._synthetic: set[str] = set()
        self._digests: dict[str, str] = {}
        self._loading = {name: threading.Lock() for name in networks.NETWORKS}
        enable_expandable_segments(self.device)
        for name, variant in self._variants.items():
            variant.check(name)
        if "lnet" in self._variants and self._variants["lnet"] != self._variants.get("enet", self._variants["lnet"]):
            raise ValueError("lnet is part of enet: give both the same variant")

    @property
    def synthetic(self) -> bool:
        """Whether anything loaded so far was written by `weights synthesize` and not trained."""
        return bool(self._synthetic)

    @property
    def loaded(self) -> tuple[str, ...]:
        return tuple(self._loaded)

    @property
    def networks(self) -> Mapping[str, InferenceNetwork]:
        """What is loaded, by name."""
        return dict(self._loaded)

    def kernels(self) -> KernelState | None:
        """What the loaded networks run that can be compiled; None if there are none."""
        waiting = {
            network.awaits_kernels
            for name, network in self.networks.items()
            if network.variant.compiled_batch is not None and name in INPUT_SHAPES
        }
        if not waiting:
            return None
        return "mixed" if len(waiting) > 1 else "plain" if waiting.pop() else "compiled"

    def get(self, name: str) -> InferenceNetwork:
        """The network, ready to run. The first call reads its file; raises a `WeightsError` if that is not right."""
        with self._loading[name]:
            if name not in self._loaded:
                parts = {"low_res": self.get("lnet").network} if name == "enet" else {}
                self._loaded[name] = prepare(name, self._load(name, parts), self._variant(name))
            return self._loaded[name]

    def digest(self, name: str) -> str:
        """Of the file and of how the network runs: one digest, one result, up to the rounding of plain and compiled
        kernels."""
        if name not in self._digests:
            path = find_file(self.folder, WEIGHT_FILES[name])
            locked = read_lock(self.folder).get(path.name)
            self._digests[name] = locked.sha256 if locked is not None else file_sha256(path)
        return f"{self._digests[name]} {self._variant(name)}"

    def run_in_float32(self, name: str) -> bool:
        """Load a network anew in plain float32, if it ran in half precision; False if it did not."""
        if self._variant(name).precision not in HALF_DTYPES:
            return False
        for each in ("lnet", "enet") if name in ("lnet", "enet") else (name,):
            self._variants[each] = InferenceVariant()
            self.release(each)
        return True

    def release(self, name: str) -> None:
        """Forgets a network. LNet stays in memory as long as ENet does."""
        self._loaded.pop(name, None)

    def _variant(self, name: str) -> InferenceVariant:
        if name in ("lnet", "enet"):
            return self._variants.get("enet", self._variants.get("lnet", InferenceVariant()))
        return self._variants.get(name, InferenceVariant())

    def _load(self, name: str, parts: Mapping[str, nn.Module]) -> nn.Module:
        entry = WEIGHT_FILES[name]
        path = find_file(self.folder, entry)
        # Known from here on: reading the file again for `digest` would take as long as loading it.
        if digest := check_digest(path, entry, read_lock(self.folder).get(path.name)):
            self._digests[name] = digest
        state = read_state_dict(path, entry)
        state = self._place(state)
        with networks.IMPORTS, torch.device("meta"):
            network = networks.build(name, **parts)
        for prefix, part in parts.items():
            state |= {f"{prefix}.{key}": tensor for key, tensor in part.state_dict().items()}
        network.load_state_dict(state, strict=True, assign=True)
        if synthetic_seed(path) is not None:
            self._synthetic.add(name)
        return network

    def _place(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies tensor by tensor off the mapped file, so that neither it nor a second copy stays behind."""
        placed = {}
        while state:
            key, tensor = state.popitem()
            dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
            placed[key] = tensor.to(self.device, dtype, copy=True)
        return placed
