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
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from bench.clips import CANVASES, Canvas, cut_speech, move_track, place_clip, repeat_clip, repeat_track
from bench.load_watch import LoadWatch
from bench.replay import ReplayedTrack, load_track, save_track
from retalking_core.engines import videoretalking
from retalking_core.engines.videoretalking import VideoRetalkingEngine
from retalking_core.local_face_cache import LocalFaceCache
from retalking_core.media.limits import MediaLimits
from retalking_core.media.probe import probe_video
from retalking_core.media.writer import ResultWriter
from retalking_core.networks.inference import fast_variants
from retalking_core.options import RenderOptions
from retalking_core.progress import ignore_progress
from retalking_core.types import FaceTrack, Frame, RenderReport
from retalking_core.weights.store import NetworkStore

# The length that the original was measured on: 109 frames of the clip at 22.131 frames a second.
SHORT_S, LONG_S, LONGEST_S = 109 * 61 / 1350, 60.0, 600.0
FAST_BATCH = 16
SLOWER_BY = 1.1
# Ten minutes of a repeated clip are a few seconds more.
BENCH_LIMITS = MediaLimits(max_video_s=700, max_audio_s=700)


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    name: str
    canvas: str = "700x700"
    seconds: float = SHORT_S
    mode: str = "fast"
    batch: int = FAST_BATCH
    cached: bool = False


@dataclass
class Figures:
    """Of one case. gpu_busy: share of the synthesis, 0..1, and peak_gpu_gib, of the whole device, by NVML.
    host_gib: the most in each third of the time. step times: of the device."""

    case: Case
    frames: int
    wall_s: float
    all_wall_s: list[float]
    stages_s: dict[str, float]
    peak_gpu_gib: float | None
    host_gib: list[float]
    gpu_busy: float | None
    face_cache: str
    notes: list[str] = field(default_factory=list)


CASES = (
    *(Case(canvas.name, canvas.name) for canvas in CANVASES),
    Case("700x700, cache hit", cached=True),
    Case("1080p, 60 s", "1080p", LONG_S),
    Case("700x700, 60 s", "700x700", LONG_S),
    Case("1080p, 10 min", "1080p", LONGEST_S),
    Case("700x700, float32", mode="exact"),
    Case("700x700, batch 8", batch=8),
)


class Inputs:
    """Clips and tracks by canvas and length, speech by length; made when first asked for."""

    def __init__(self, video: Path, speech: Path, track: FaceTrack | None, folder: Path) -> None:
        self._video, self._speech, self._track, self._folder = video, speech, track, folder
        self._clips: dict[tuple[str, float], tuple[Path, FaceTrack | None]] = {}

    def clip(self, name: str, seconds: float = 0.0) -> tuple[Path, FaceTrack | None]:
        """At least so many seconds of it: a long case has a long video, of which every frame is drawn."""
        if (name, seconds) not in self._clips:
            canvas = next(each for each in CANVASES if each.name == name)
            self._clips[name, seconds] = self._repeated(name, seconds) if seconds > SHORT_S else self._placed(canvas)
        return self._clips[name, seconds]

    def speech(self, seconds: float) -> Path:
        file = self._folder / f"{seconds:.3f}.wav"
        if not file.exists():
            cut_speech(self._speech, seconds, file)
        return file

    def _placed(self, canvas: Canvas) -> tuple[Path, FaceTrack | None]:
        if canvas == Canvas(canvas.name):
            return self._video, self._track
        file = self._folder / f"{canvas.name.replace(' ', '-').replace(',', '')}.mp4"
        shift = place_clip(self._video, canvas, file)
        return file, None if self._track is None else move_track(self._track, canvas.scale, shift)

    def _repeated(self, name: str, seconds: float) -> tuple[Path, FaceTrack | None]:
        clip, track = self.clip(name)
        times = math.ceil(seconds / probe_video(clip, BENCH_LIMITS).duration_s)
        file = self._folder / f"{clip.stem}-{times}.mp4"
        repeat_clip(clip, times, file)
        return file, None if track is None else repeat_track(track, times)


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
            gpu_busy=watch.gpu_busy(run.ended - report.stage_times_s["synthesise"], run.ended),
            face_cache=report.face_cache,
            notes=report.notes,
        )

    def compare(self) -> dict[str, float]:
        """PSNR of luma in the face's box, dB: the fast path against float32, of each frame as the encoder gets it."""
        frames = {}
        for mode in ("fast", "exact"):
            engine, video = self.engine(Case("compare", mode=mode), None)
            frames[mode] = handed_over(
                lambda engine=engine, video=video: render(engine, video, self._inputs.speech(SHORT_S), self._folder)
            )
        _, track = self._inputs.clip("700x700")
        box = face_area(track, frames["exact"][0])
        ratios = [psnr(a.y[box], b.y[box]) for a, b in zip(frames["exact"], frames["fast"], strict=True)]
        error = np.mean([10 ** (-ratio / 10) for ratio in ratios])
        return {"psnr_db": float(-10 * np.log10(error)), "worst_frame_db": float(min(ratios))}


@dataclass(frozen=True)
class Timed:
    report: RenderReport
    wall_s: float
    ended: float


def timed(work: Callable[[], RenderReport]) -> Timed:
    began = time.perf_counter()
    report = work()
    ended = time.perf_counter()
    return Timed(report, ended - began, ended)


def render(engine: VideoRetalkingEngine, video: Path, speech: Path, folder: Path) -> RenderReport:
    result = folder / "result.mp4"
    try:
        return engine.render(video, speech, result, RenderOptions(), ignore_progress)
    finally:
        result.unlink(missing_ok=True)


def handed_over(work: Callable[[], object]) -> list[Frame]:
    """The frames that the encoder is given meanwhile."""
    frames: list[Frame] = []

    class Watched(ResultWriter):
        def write(self, frame: Frame) -> None:
            frames.append(frame)
            super().write(frame)

    plain, videoretalking.ResultWriter = videoretalking.ResultWriter, Watched
    try:
        work()
    finally:
        videoretalking.ResultWriter = plain
    return frames


def face_area(track: FaceTrack | None, frame: Frame) -> tuple[slice, slice]:
    if track is None:
        return slice(None), slice(None)
    height, width = frame.y.shape
    left, top = np.nanmin(track.landmarks, axis=(0, 1)).clip(0)
    right, bottom = np.nanmax(track.landmarks, axis=(0, 1))
    return slice(int(top), min(int(bottom), height)), slice(int(left), min(int(right), width))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.square(one.astype(np.float64) - other).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-6)))


def _nothing() -> ReplayedTrack:
    return ReplayedTrack(FaceTrack(np.zeros((0, 4)), np.zeros((0, 68, 2)), np.zeros(0, bool)))


def print_table(figures: list[Figures]) -> None:
    print(
        "\n| case | frames | s | frames/s | GPU busy | GPU GiB | host GiB by thirds | steps of the device, ms a frame |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for each in figures:
        steps = ("cut", "stabilise", "enhance", "lips", "restore", "composite")
        parts = ", ".join(f"{s} {1000 * each.stages_s[s] / each.frames:.2f}" for s in steps if s in each.stages_s)
        walls = ", ".join(f"{s} {each.stages_s[s]:.2f} s" for s in ("read", "analyse", "synthesise", "encode"))
        busy = "" if each.gpu_busy is None else f"{100 * each.gpu_busy:.0f} %"
        gpu = "" if each.peak_gpu_gib is None else f"{each.peak_gpu_gib:.1f}"
        print(
            f"| {each.case.name} | {each.frames} | {each.wall_s:.2f} | {each.frames / each.wall_s:.1f} | {busy} "
            f"| {gpu} | {' '.join(f'{most:.1f}' for most in each.host_gib)} | {parts}; {walls} |"
        )
        for note in each.notes[1:]:
            print(f"  {each.case.name}: {note}")


def slower_cases(document: dict, earlier: dict) -> list[str]:
    """The regression guard: cases of both that take more than a tenth longer now."""
    before = {run["case"]["name"]: run["wall_s"] for run in earlier["runs"]}
    return [
        f"{run['case']['name']}: {run['wall_s']:.2f} s, was {before[run['case']['name']]:.2f} s"
        for run in document["runs"]
        if run["case"]["name"] in before and run["wall_s"] > SLOWER_BY * before[run["case"]["name"]]
    ]


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
