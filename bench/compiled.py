"""Compiled kernels for measurements, which cannot wait until a service is idle."""

from __future__ import annotations

import os
from pathlib import Path

from retalking_core.networks.kernels import KernelCache, KernelSwap, compilers_at_once
from retalking_core.threads import Turns
from retalking_core.weights.store import NetworkStore


def compile_now(store: NetworkStore, batch: int) -> None:
    """Of all networks that are loaded, kept in TORCHINDUCTOR_CACHE_DIR, or data/compiled."""
    folder = os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path("data/compiled").resolve()))
    swap = KernelSwap(lambda: store.networks, KernelCache(Path(folder), store.device, batch), Turns(idle_s=0))
    swap.run(compilers_at_once())
    if swap.failures:
        raise SystemExit("\n".join(f"{name}: {reason}" for name, reason in swap.failures.items()))
