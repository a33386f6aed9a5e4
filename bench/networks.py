"""Speed, memory and rounding of every network and variant on one GPU.

    python -m bench.networks --json out/networks.json

Weights are synthetic (drawn here, no download). The error is the largest difference from the plain float32 network on
the same inputs, relative to the largest value of each output; the worst output counts. `golden` is float32 on this
device against the committed golden slices, which were made on a CPU.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from retalking_core.networks import NETWORKS
from retalking_core.networks.inference import (
    CHANNELS_LAST_ALLOWED,
    FOLDABLE,
    REFERENCE,
    InferenceNetwork,
    InferenceVariant,
    prepare,
)
from tests.networks.golden import RUNNERS, GoldenSet, load_synthetic, make_input, read_golden

ROOT = Path(__file__).resolve().parents[1]
# Inputs and the first check come from the golden slices; a network without any (inception) is not measured.
MEASURED = [name for name in NETWORKS if (ROOT / "tests" / "golden" / "networks" / name).is_dir()]
BATCHES = (1, 8, 16, 32, 64)
VARIANTS = {
    "fp32": REFERENCE,
    "fp32 folded": InferenceVariant(),
    "fp32 channels_last": InferenceVariant(channels_last=True),
    "tf32": InferenceVariant("tf32"),
    "tf32 channels_last": InferenceVariant("tf32", channels_last=True),
    "bf16": InferenceVariant("bf16"),
    "bf16 channels_last": InferenceVariant("bf16", channels_last=True),
    "fp16": InferenceVariant("fp16"),
    "fp16 channels_last": InferenceVariant("fp16", channels_last=True),
    "bf16 compiled": InferenceVariant("bf16", compiled_batch=16),
    "fp16 compiled": InferenceVariant("fp16", compiled_batch=16),
    "tf32 compiled": InferenceVariant("tf32", compiled_batch=16),
}
HEADER = (
    "| network | variant | batch | max relative error | images/s | peak GiB | note |\n|---|---|---|---|---|---|---|"
)
MEASURE_S = 0.3  # of each cell, after one warm-up call


@dataclass(frozen=True)
class Cell:
    """One network, variant and batch. error, images_per_s and peak_gib are None where note says why."""

    network: str
    variant: str
    batch: int
    error: float | None = None
    images_per_s: float | None = None
    peak_gib: float | None = None
    note: str = ""


def tensors(result: object) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [t for part in result for t in tensors(part)]


def largest_error(outputs: list[Tensor], expected: list[Tensor]) -> float:
    pairs = zip(outputs, expected, strict=True)
    return max(((a.cpu() - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(call: Callable[[], object], batch: int) -> float:
    """Images a second; one call has been made before."""
    synchronize()
    started, calls = time.perf_counter(), 0
    while calls < 2 or time.perf_counter() - started < MEASURE_S:
        call()
        synchronize()
        calls += 1
    return calls * batch / (time.perf_counter() - started)


def golden_error(golden: GoldenSet, network: InferenceNetwork) -> float:
    inputs = {r["name"]: make_input(r, golden.network, golden.seed).to(network.device) for r in recipes_of(golden)}
    with network.context():
        outputs = RUNNERS[golden.network](network.network, inputs)
    worst = 0.0
    for name, output in outputs.items():
        entry = golden.document["outputs"][name]
        for key, part in entry["stored"].items():
            cut = output.float().cpu()[tuple(slice(*bounds) for bounds in part)]
            stored = torch.from_numpy(golden.arrays[f"output/{key}"])
            worst = max(worst, (cut - stored).abs().max().item() / entry["absmax"])
    return worst


def recipes_of(golden: GoldenSet) -> list[dict]:
    """Of the inputs of the whole network, in the order of its arguments."""
    return [r for r in golden.document["inputs"] if not r["name"].startswith("unit_")]


def measure(
    name: str, label: str, network: InferenceNetwork, inputs: list[Tensor], expected: dict, batches: list[int]
) -> list[Cell]:
    cells = []
    for batch in batches:
        part = [x[:batch].to(network.device) for x in inputs]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            outputs = tensors(network(*part))
            if label == "fp32":
                expected[batch] = [t.cpu() for t in outputs]
            error = largest_error(outputs, expected[batch]) if batch in expected else None
            del outputs
            speed = timed(lambda part=part: network(*part), batch)
            peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
            cells.append(Cell(name, label, batch, error, speed, peak))
        except RuntimeError as problem:  # out of memory, or a kernel that refuses the size
            cells.append(Cell(name, label, batch, note=str(problem).splitlines()[0][:100]))
        print(row(cells[-1]), flush=True)
    return cells


def applies(name: str, label: str, variant: InferenceVariant) -> bool:
    """What the network allows; and TF32 and float16 in one layout only, to stay within the time."""
    try:
        variant.check(name)
    except ValueError:
        return False
    if label in ("tf32", "fp16"):
        return name not in CHANNELS_LAST_ALLOWED
    return label != "fp32 folded" or name in FOLDABLE


def bench_network(
    name: str, device: torch.device, deadline: float, labels: list[str], batches: list[int]
) -> tuple[list[Cell], float | None]:
    golden = read_golden(ROOT / "tests" / "golden", name)
    try:
        weights = load_synthetic(name, golden.seed)
    except ImportError as problem:
        return [Cell(name, "fp32", 0, note=f"not measured: {problem}")], None
    most = max(batches)
    inputs = [make_input({**r, "shape": [most, *r["shape"][1:]]}, name, golden.seed) for r in recipes_of(golden)]
    cells: list[Cell] = []
    expected: dict[int, list[Tensor]] = {}
    golden_worst = None
    for label in labels:
        variant = VARIANTS[label]
        if not applies(name, label, variant):
            continue
        if time.monotonic() > deadline:
            cells.append(Cell(name, label, 0, note="not measured: out of time"))
            continue
        network = prepare(name, copy.deepcopy(weights).to(device), variant)
        if label == "fp32":
            golden_worst = golden_error(golden, network)
            print(f"{name}: float32 on {device} against the golden slices: {golden_worst:.1e}", flush=True)
        if network.awaits_kernels:
            network.compile_kernels(*(x[: variant.compiled_batch].to(device) for x in inputs))
        cells += measure(name, label, network, inputs, expected, batches)
        del network
        gc.collect()
    return cells, golden_worst


def row(cell: Cell) -> str:
    if cell.note:
        return f"| {cell.network} | {cell.variant} | {cell.batch or ''} | | | | {cell.note} |"
    error = "" if cell.error is None else f"{cell.error:.1e}"
    peak = "" if cell.peak_gib is None else f"{cell.peak_gib:.2f}"
    return f"| {cell.network} | {cell.variant} | {cell.batch} | {error} | {cell.images_per_s:.1f} | {peak} | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--networks", nargs="*", default=MEASURED, choices=MEASURED)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--batches", nargs="*", type=int, default=list(BATCHES))
    parser.add_argument("--budget-s", type=float, default=480, help="start nothing new after this")
    parser.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN try its algorithms first")
    arguments = parser.parse_args()
    torch.backends.cudnn.benchmark = arguments.cudnn_benchmark
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    label = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    deadline = time.monotonic() + arguments.budget_s
    print(
        "| network | variant | batch | max relative error | images/s | peak GiB | note |\n|---|---|---|---|---|---|---|"
    )
    cells: list[Cell] = []
    golden: dict[str, float | None] = {}
    for name in arguments.networks:
        found, golden[name] = bench_network(name, device, deadline, arguments.variants, arguments.batches)
        cells += found
    versions = {"device": label, "torch": torch.__version__, "cudnn_benchmark": arguments.cudnn_benchmark}
    print_summary(versions, golden, cells)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        document = {**versions, "golden_error": golden, "cells": [asdict(cell) for cell in cells]}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


def print_summary(versions: dict, golden: dict[str, float | None], cells: list[Cell]) -> None:
    """The one table again, whole, with what it was measured on."""
    print(f"\n## Networks on {versions['device']}, torch {versions['torch']}, synthetic weights\n")
    print("float32 against the golden slices: " + ", ".join(f"{n} {e:.1e}" for n, e in golden.items() if e is not None))
    print(f"\n{HEADER}")
    print("\n".join(row(cell) for cell in cells))


if __name__ == "__main__":
    main()
