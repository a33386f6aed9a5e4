"""How fast the videoretalking engine is, decode and encode included: `retalking bench`.

    retalking bench VIDEO SPEECH --models DIR [--track FILE.npz] [--cases NAME ...] [--json FILE] [--against FILE]
    retalking bench VIDEO --save-track FILE.npz

Cases are canvases (480p, 700x700, 1080p, 4K; the face as large as it was, and scaled with the canvas), lengths, batch
sizes, precisions, and the face cache missed and hit. Each is rendered once to warm up and then --repeat times, and the
quickest counts; the long ones run once, after others have warmed the process up. `--track` replays a face track that
was found before, and does the detectors' work besides (`bench.replay`): with synthetic weights nothing else can follow
a face. `--against` compares with an earlier JSON and ends with status 1 where a case became slower by more than a
tenth.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bench.comparison import compare, handed_over
from bench.compiled import compile_now
from bench.engine_cases import CASES, FAST_BATCH, SHORT_S, Case, Figures, print_table, slower_cases
from bench.engine_inputs import BENCH_LIMITS, Inputs
from bench.load_watch import LoadWatch
from bench.replay import ReplayedTrack, load_track, save_track
from retalking_core.engine import render_files
from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
from retalking_core.face_cache import LocalFaceCache
from retalking_core.networks.inference import fast_variants
from retalking_core.options import RenderOptions
from retalking_core.progress import ignore_progress
from retalking_core.types import FaceTrack, RenderReport
from retalking_core.weights.store import NetworkStore


class Bench:
    """Engines by mode and batch; one is held at a time."""

    def __init__(self, models: Path, inputs: Inputs, folder: Path, repeat: int) -> None:
        self._models, self._inputs, self._folder, self._repeat = models, inputs, folder, repeat
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._held: tuple[tuple[str, int], NetworkStore] | None = None
        self.starts_s: dict[str, float] = {}

    def networks(self, mode: str, batch: int) -> NetworkStore:
        if self._held is None or self._held[0] != (mode, batch):
            self._held = None
            if self._device == "cuda":
                torch.cuda.empty_cache()
            variants = fast_variants(batch) if mode == "fast" else {}
            began = time.perf_counter()
            store = NetworkStore(self._models, self._device, variants)
            VideoRetalkingEngine(store, tracker=_nothing(), batch_size=batch).warm_up()
            if variants:
                store.get("fan2d")
                compile_now(store, batch)
            if self._device == "cuda":
                torch.cuda.synchronize()
            self.starts_s[f"{mode}, batch {batch}"] = time.perf_counter() - began
            print(f"start, {mode}, batch {batch}: {time.perf_counter() - began:.1f} s", flush=True)
            self._held = (mode, batch), store
        return self._held[1]

    def engine(self, case: Case, cache: LocalFaceCache | None) -> tuple[VideoRetalkingEngine, Path]:
        video, track = self._inputs.clip(case.canvas, case.seconds)
        networks = self.networks(case.mode, case.batch)
        tracker = None if track is None else ReplayedTrack(track, networks)
        return VideoRetalkingEngine(networks, BENCH_LIMITS, tracker=tracker, batch_size=case.batch, cache=cache), video

    def measure(self, case: Case) -> Figures:
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            cache = LocalFaceCache(Path(folder), 2**33, 3600) if case.cached else None
            engine, video = self.engine(case, cache)
            speech = self._inputs.speech(case.seconds)
            long = case.seconds > SHORT_S
            if not long:
                render(engine, video, speech, self._folder)
            if self._device == "cuda":
                torch.cuda.empty_cache()
            repeat = 1 if long else self._repeat
            with LoadWatch() as watch:
                runs = [timed(lambda: render(engine, video, speech, self._folder)) for _ in range(repeat)]
        best = min(range(len(runs)), key=lambda k: runs[k].wall_s)
        report, run = runs[best].report, runs[best]
        return Figures(
            case=case,
            frames=report.frames,
            wall_s=run.wall_s,
            all_wall_s=[each.wall_s for each in runs],
            stages_s=report.stage_times_s,
            peak_gpu_gib=watch.peak_gpu_gib,
            host_gib=watch.host_gib,
            gpu_busy=watch.gpu_busy(run.ended - report.stage_times_s["synthesize"], run.ended),
            face_cache=report.face_cache,
            notes=[note.sentence for note in report.notes],
        )

    def compare(self) -> dict[str, float]:
        """PSNR of luma in the face's box, dB: the fast path against float32, of each frame as the encoder gets it."""
        frames = {}
        for mode in ("fast", "exact"):
            engine, video = self.engine(Case("compare", mode=mode), None)
            frames[mode] = handed_over(
                lambda engine=engine, video=video: render(engine, video, self._inputs.speech(SHORT_S), self._folder)
            )
        return compare(frames["exact"], frames["fast"], self._inputs.clip("700x700")[1])


@dataclass(frozen=True)
class Timed:
    report: RenderReport
    wall_s: float
    ended: float


def timed(work: Callable[[], RenderReport]) -> Timed:
    began = time.perf_counter()
    report = work()
    ended = time.perf_counter()
    # Without the frames that it holds: those of several renders would be measured as memory of the engine's.
    return Timed(replace(report, held=None), ended - began, ended)


def render(engine: VideoRetalkingEngine, video: Path, speech: Path, folder: Path) -> RenderReport:
    result = folder / "result.mp4"
    try:
        return render_files(engine, video, speech, result, RenderOptions(), ignore_progress)
    finally:
        result.unlink(missing_ok=True)


def _nothing() -> ReplayedTrack:
    return ReplayedTrack(FaceTrack(np.zeros((0, 4)), np.zeros((0, 68, 2)), np.zeros(0, bool)))


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="retalking bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path)
    parser.add_argument("speech", type=Path, nargs="?")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--track", type=Path, help="replay this face track")
    parser.add_argument("--save-track", type=Path, help="write a face track and end")
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="*", default=names, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--compare", action="store_true", help="PSNR of the fast path against float32")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--budget-s", type=float, default=1e9, help="start nothing new after this")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--against", type=Path, help="JSON of an earlier run")
    found = parser.parse_args(arguments)
    if found.speech is None and found.save_track is None:
        parser.error("SPEECH is missing")
    return found


def main(arguments: list[str] | None = None) -> None:
    asked = parse_arguments(arguments)
    if asked.save_track:
        save_track(asked.video, asked.save_track)
        return
    with tempfile.TemporaryDirectory() as folder:
        track = load_track(asked.track) if asked.track else None
        bench = Bench(asked.models, Inputs(asked.video, asked.speech, track, Path(folder)), Path(folder), asked.repeat)
        document = measure_all(bench, asked)
    if asked.against and (slower := slower_cases(document, json.loads(asked.against.read_text()))):
        print("slower than before:", *slower, sep="\n  ")
        sys.exit(1)


def measure_all(bench: Bench, asked: argparse.Namespace) -> dict:
    """The JSON document, written anew after each case: what was measured is there whatever comes after it."""
    document = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "torch": torch.__version__,
        "video": asked.video.name,
        "starts_s": bench.starts_s,
        "compared": None,
        "runs": [],
    }
    began, figures = time.monotonic(), []
    cases = [each for each in CASES if each.name in asked.cases]
    usual = [case for case in cases if case.mode == "fast" and case.batch == FAST_BATCH]
    # Compared before the usual networks make room for others.
    comparison = [None] if asked.compare else []
    for case in [*usual, *comparison, *(case for case in cases if case not in usual)]:
        if time.monotonic() - began > asked.budget_s:
            print(f"not measured, out of time: {case.name if case else 'the comparison'}")
        elif case is None:
            document["compared"] = bench.compare()
            print(f"fast path against float32, luma in the face's box: {document['compared']}")
        else:
            figures.append(bench.measure(case))
            print_table(figures[-1:])
            document["runs"].append({**asdict(figures[-1]), "case": asdict(case)})
        if asked.json:
            asked.json.parent.mkdir(parents=True, exist_ok=True)
            asked.json.write_text(json.dumps(document, indent=1) + "\n")
    print_table(figures)
    return document


if __name__ == "__main__":
    main()
