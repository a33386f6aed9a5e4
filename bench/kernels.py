"""Where a network of the fast engine spends its time: the device's kernels, the longest first.

    TORCHINDUCTOR_CACHE_DIR=DIR python -m bench.kernels --models DIR [--networks NAME ...] [--batch N] [--most N]

One replay of each network, on noise. Without a GPU the operators of the plain float32 network are told instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from bench.compiled import compile_now
from retalking_core.networks import INPUT_SHAPES
from retalking_core.networks.inference import InferenceNetwork, fast_variants
from retalking_core.networks.kernels import example_call
from retalking_core.weights.store import NetworkStore

CALLS = 2
WIDTH = 150


def measure(name: str, network: InferenceNetwork, batch: int) -> list[tuple[str, float, int]]:
    """(kernel, ms a call, times a call), the longest first."""
    device = network.device
    on_gpu = device.type == "cuda"
    one, options = example_call(name, device)
    inputs = [each.repeat_interleave(batch, dim=0) for each in one]
    network(*inputs, **options)
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        for _ in range(CALLS):
            network(*inputs, **options)
        if on_gpu:
            torch.cuda.synchronize()
    rows = [
        (each.key, (each.self_device_time_total if on_gpu else each.self_cpu_time_total) / 1e3 / CALLS, each.count)
        for each in seen.key_averages()
    ]
    return sorted(((key, ms, count // CALLS) for key, ms, count in rows), key=lambda row: -row[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--networks", nargs="*", default=list(INPUT_SHAPES), choices=list(INPUT_SHAPES))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--most", type=int, default=20, help="kernels of each network")
    asked = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    store = NetworkStore(asked.models, device, fast_variants(asked.batch) if device == "cuda" else {})
    for name in asked.networks:
        network = store.get(name)
        if device == "cuda":
            compile_now(store, asked.batch)
        rows = measure(name, network, asked.batch)
        held = f", {torch.cuda.memory_reserved() / 2**30:.2f} GiB held by torch" if device == "cuda" else ""
        print(f"\n{name}, batch {asked.batch} on {device}: {sum(ms for _, ms, _ in rows):.2f} ms{held}")
        for key, ms, count in rows[: asked.most]:
            print(f"  {ms:7.3f} ms x{count} {key[:WIDTH]}")


if __name__ == "__main__":
    main()
