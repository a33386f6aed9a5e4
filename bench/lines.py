"""What a second face costs: `python -m bench.lines [--engine NAME] [--frames N] [--repeat N] [--json FILE]` renders one
scene with one face and with two at equal frames, by turns in one process, and prints both and their ratio.

The scene is made on the spot (tests/media/dialogs.py); each face speaks on every frame. Of each side the smallest of N
runs counts, after one run of two faces that warms up. The bar: two faces take at most 2.1 times the synthesis of one.

Columns. synthesize: the second pass by the wall clock, with decoding and encoding beside it. drawing: its steps, which
the neural engine times on its device. GPU: most memory that tensors took.

The neural engine runs with generated weights (--models: with those). `--inference eager` keeps its precision and leaves
out compilation and recording, which take minutes on a new machine; two faces then wait for the same launches as one.
Figures are written to --json after every pair of runs, and no pair begins after --budget-s.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.engine import timed
from retalking_core.engine import Engine, render_files
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.lines import LineInput
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.options import RenderOptions
from retalking_core.progress import ignore_progress
from tests.media.dialogs import FPS, make_dialog

BAR = 2.1
BATCH = 16
# Stages that draw nothing.
NOT_DRAWING = ("read", "analyze", "encode", "synthesize")


@dataclass(frozen=True)
class Run:
    """Seconds of one render. gpu_gib: None on the CPU."""

    faces: int
    frames: int
    wall_s: float
    synthesize_s: float
    drawing_s: float
    gpu_gib: float | None
    notes: tuple[str, ...]


@dataclass
class Comparison:
    """Runs of one engine. start_s: until it was ready, weights included."""

    engine: str
    device: str
    inference: str
    start_s: float
    runs: list[Run]

    def smallest(self, faces: int, figure: str) -> float:
        return min(getattr(run, figure) for run in self.runs if run.faces == faces)

    def ratios(self) -> dict[str, float]:
        """Two faces over one; empty before each has run."""
        if {run.faces for run in self.runs} != {1, 2}:
            return {}
        figures = ("synthesize_s", "drawing_s")
        return {figure: self.smallest(2, figure) / self.smallest(1, figure) for figure in figures}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--engine", nargs="*", choices=("preview", "videoretalking"), help="default: without CUDA preview alone"
    )
    parser.add_argument("--frames", type=int, default=75)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--inference", choices=("compiled", "eager", "float32"), default="compiled")
    parser.add_argument("--models", type=Path, help="folder of weight files; default: made for this run")
    parser.add_argument("--budget-s", type=float, default=1e9)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    began, found = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        for name, make in _engines(asked, Path(folder)):
            at = time.monotonic()
            engine = make()
            engine.warm_up()
            start_s = time.monotonic() - at
            found.append(Comparison(name, engine.capabilities.device, asked.inference, start_s, []))
            print(f"{name} on {found[-1].device}: ready after {start_s:.1f} s", flush=True)
            for _ in _measure(engine, found[-1], asked, Path(folder), began):
                _write(asked.json, found)
            _print(found[-1])


def _measure(engine: Engine, into: Comparison, asked: argparse.Namespace, folder: Path, began: float) -> Iterator[None]:
    """Adds runs, and yields after each pair."""
    seconds = asked.frames / FPS
    dialog = make_dialog(folder, seconds)
    lines = [
        LineInput(dialog.first, end_s=seconds, face="left_most"),
        LineInput(dialog.second, end_s=seconds, face="right_most"),
    ]
    result = folder / "result.mp4"

    def run(faces: int) -> Run:
        memory = _GpuMemory()
        spoken, options = lines[:faces], RenderOptions()
        done = timed(lambda: render_files(engine, dialog.video, spoken, result, options, ignore_progress))
        times_s, notes = done.report.stage_times_s, tuple(note.code for note in done.report.notes)
        drawing_s = sum(spent_s for stage, spent_s in times_s.items() if stage not in NOT_DRAWING)
        return Run(faces, done.report.frames, done.wall_s, times_s["synthesize"], drawing_s, memory.peak_gib(), notes)

    run(2)
    for _ in range(max(1, asked.repeat)):
        if into.runs and time.monotonic() - began > asked.budget_s:
            print("out of time: fewer runs than asked for")
            return
        into.runs += [run(1), run(2)]
        yield


class _GpuMemory:
    """Most that tensors of this process take from now on."""

    def __init__(self) -> None:
        import torch

        self._torch = torch if torch.cuda.is_available() else None
        if self._torch is not None:
            self._torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        return None if self._torch is None else self._torch.cuda.max_memory_allocated() / 2**30


def _print(found: Comparison) -> None:
    print(f"{'faces':>6}{'frames':>8}{'wall s':>9}{'synthesize s':>14}{'drawing s':>11}{'ms/frame':>10}{'GPU GiB':>9}")
    for run in found.runs:
        gpu = "-" if run.gpu_gib is None else f"{run.gpu_gib:.2f}"
        each_ms = 1000 * run.drawing_s / run.frames
        print(
            f"{run.faces:>6}{run.frames:>8}{run.wall_s:>9.2f}{run.synthesize_s:>14.3f}{run.drawing_s:>11.3f}"
            f"{each_ms:>10.2f}{gpu:>9}"
        )
    for figure, ratio in found.ratios().items():
        print(f"{found.engine}: two faces take {ratio:.2f} times the {figure[:-2]} time of one (bar {BAR})", flush=True)


def _write(target: Path | None, found: Sequence[Comparison]) -> None:
    if target is None:
        return
    document: list[dict[str, Any]] = [{**asdict(each), "ratios": each.ratios(), "bar": BAR} for each in found]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=1) + "\n")


def _engines(asked: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Callable[[], Engine]]]:
    import torch

    names = asked.engine or ["preview", *(["videoretalking"] if torch.cuda.is_available() else [])]
    if "preview" in names:
        yield "preview", PreviewEngine
    if "videoretalking" in names:
        yield "videoretalking", partial(_neural, asked.models or folder / "weights", asked.inference)


def _neural(models: Path, inference: str) -> Engine:
    import torch

    from bench.compiled import compile_now
    from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
    from retalking_core.networks.inference import fast_variants
    from retalking_core.weights.store import NetworkStore

    if not models.exists():
        _make_weights(models)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    variants = {} if inference == "float32" else fast_variants(BATCH)
    if inference == "eager":
        variants = {name: replace(variant, compiled_batch=None) for name, variant in variants.items()}
    store = NetworkStore(models, device, variants)
    engine = VideoRetalkingEngine(store, limits=DEFAULT_LIMITS, synthetic_weights=True)
    if inference == "compiled":
        engine.warm_up()
        compile_now(store, BATCH)
    return engine


def _make_weights(models: Path) -> None:
    """Generated ones, each network in a process of its own."""
    from retalking_core.engines.videoretalking.engine import NETWORKS
    from retalking_core.weights.synthesis import write_checkpoint
    from retalking_core.weights.table import WEIGHT_FILES

    began = time.monotonic()
    with ProcessPoolExecutor(min(len(NETWORKS), os.cpu_count() or 1), get_context("spawn")) as pool:
        for made in [pool.submit(write_checkpoint, models, WEIGHT_FILES[name], 1) for name in NETWORKS]:
            made.result()
    print(f"generated weights after {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
