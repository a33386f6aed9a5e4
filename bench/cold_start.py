"""From a bare process to its first finished file, and on to compiled kernels.

    python -m bench.cold_start VIDEO SPEECH --models DIR [--track FILE.npz] [--json FILE] [--budget-s 300]

Each phase is a process of its own, which loads the neural engine as a worker does and is timed from its start:

    empty    nothing is compiled: two files, with plain kernels, while processes begin to compile
    compile  every network, side by side, in processes of their own
    filled   the compiler's folder is full: a file at once, then the swap between jobs, then files with compiled
             kernels, and the faces of both compared with float32
    bundle   the folder is empty again, and `retalking compile` left a bundle

Phases that would go beyond the budget are left out, by name. The document is written anew after each phase. `--track`
replays a face track (`bench.engine --save-track`): with generated weights nothing else can follow a face; they are
generated where `--models` does not exist.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a phase imports is part of what it measures
    from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
    from retalking_core.types import Frame

REPEAT = 3
# Of a phase: it is left out where less of the budget is left, and ended after it. Seconds.
LIMITS_S = {"empty": 60, "compile": 170, "filled": 140, "bundle": 80}
SWAP_LIMIT_S = 75


def process_start() -> float:
    """When this process was started, in seconds since the epoch (Linux)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    up_s = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - up_s + ticks / os.sysconf("SC_CLK_TCK")


class Phase:
    """What happened when, in seconds since the process was started, and every render."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self._asked = asked
        self._started = process_start()
        self._folder = Path(tempfile.mkdtemp(dir=asked.work))
        self.document: dict[str, Any] = {"at_s": {}, "renders": []}

    def mark(self, name: str) -> None:
        at_s = time.time() - self._started
        self.document["at_s"][name] = round(at_s, 2)
        print(f"{self._asked.phase}: {at_s:7.2f} s {name}", file=sys.stderr, flush=True)

    def load(self, *, exact: bool = False) -> VideoRetalkingEngine:
        from retalking_core.engine_plugins import EngineEnvironment
        from retalking_core.engines.videoretalking import plugin

        if self._asked.track is not None:
            from bench.replay import ReplayedTrack, load_track

            def replayed(_: object, networks: Any) -> ReplayedTrack:
                for name in ("s3fd", "fan2d"):  # what the replay works with
                    networks.get(name)
                return ReplayedTrack(load_track(self._asked.track), networks)

            plugin._face_tracker = replayed
        environment = EngineEnvironment(
            self._asked.models,
            self._asked.compiled,
            chosen="videoretalking",
            inference="exact" if exact else "auto",
            inference_batch=self._asked.batch,
            kernels="background",
            kernels_dir=self._asked.bundles if self._asked.phase == "bundle" else None,
        )
        engine: Any = plugin.load(environment)
        return engine

    def draw(self, engine: VideoRetalkingEngine, *, keep: bool = False) -> list[Frame]:
        """keep: the frames that the encoder was given."""
        from bench.comparison import handed_over
        from bench.engine import render

        reports: list[Any] = []
        began = time.perf_counter()

        def work() -> None:
            reports.append(render(engine, self._asked.video, self._asked.speech, self._folder))

        frames = handed_over(work) if keep else []
        if not keep:
            work()
        taken_s, report = time.perf_counter() - began, reports[0]
        told = {"s": round(taken_s, 3), "frames": report.frames, "kernels": report.kernels}
        told["stages_s"] = {name: round(each, 3) for name, each in report.stage_times_s.items()}
        told["notes"] = [note.code for note in report.notes]
        self.document["renders"].append(told)
        print(f"{self._asked.phase}: {told}", file=sys.stderr, flush=True)
        return frames

    def run(self) -> dict[str, Any]:
        import torch

        self.mark("torch imported")
        engine = self.load()
        self.mark("engine loaded")
        self.draw(engine)
        self.mark("first file")
        if self._asked.phase == "empty":
            self.draw(engine)
        else:
            self._swap_and_compare(engine)
        if torch.cuda.is_available():
            self.document["device"] = torch.cuda.get_device_name()
            self.document["peak_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
        self.document["torch"] = torch.__version__
        return self.document

    def _swap_and_compare(self, engine: VideoRetalkingEngine) -> None:
        from torch._dynamo.utils import counters

        plain = self.draw(engine, keep=True) if self._asked.phase == "filled" else []
        until_s = time.monotonic() + SWAP_LIMIT_S
        while engine.kernels not in ("compiled", None) and time.monotonic() < until_s:
            time.sleep(0.05)
        self.mark(f"kernels {engine.kernels}")
        self.document["compiler_cache"] = {
            kind: {key: number for key, number in counters[kind].items() if "cache" in key}
            for kind in ("inductor", "aot_autograd")
        }
        for _ in range(REPEAT):
            self.draw(engine)
        if self._asked.phase != "filled":
            return
        compiled = self.draw(engine, keep=True)
        self.mark("compiled files")
        self._compare({"plain": plain, "compiled": compiled})

    def _compare(self, drawn: dict[str, list[Frame]]) -> None:
        """PSNR of luma in the face's box against float32, dB."""
        from bench.comparison import compare
        from bench.replay import load_track

        track = load_track(self._asked.track) if self._asked.track else None
        exact = self.draw(self.load(exact=True), keep=True)
        self.document["against_float32"] = {name: compare(exact, frames, track) for name, frames in drawn.items()}
        self.mark("compared")


def compile_phase(asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds until each network was compiled, and the bundle."""
    import torch

    from retalking_core.networks.kernels import KernelCache, compile_all, compiled_names

    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device")
    began, failures = time.perf_counter(), dict[str, str]()
    cache, done_s = KernelCache(asked.compiled, torch.device("cuda"), asked.batch), dict[str, float]()
    for name in compile_all(cache, compiled_names(), len(compiled_names()), failures):
        done_s[name] = round(time.perf_counter() - began, 1)
        print(f"compile: {done_s[name]:7.1f} s {name}", file=sys.stderr, flush=True)
    document: dict[str, Any] = {"done_s": done_s, "failures": failures}
    if not failures:
        began = time.perf_counter()
        bundle = cache.write_bundle(asked.bundles, compiled_names())
        document["bundle"] = {
            "name": bundle.name,
            "mb": round(bundle.stat().st_size / 1e6, 1),
            "s": round(time.perf_counter() - began, 1),
        }
    return document


def run_phase(name: str, arguments: list[str], folder: Path, limit_s: float) -> dict[str, Any]:
    """The document of a phase in a process of its own. The compiler's folder of `bundle` is another one."""
    compiled = folder / ("compiled-bundle" if name == "bundle" else "compiled")
    command = [sys.executable, "-m", "bench.cold_start", *arguments, "--phase", name, "--work", str(folder)]
    environment = {key: value for key, value in os.environ.items() if key != "TORCHINDUCTOR_CACHE_DIR"}
    command += ["--compiled", str(compiled), "--bundles", str(folder / "bundles")]
    try:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit_s:.0f} s"}
    if done.returncode:
        return {"failed": f"exit code {done.returncode}"}
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--track", type=Path, help="replay this face track")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--budget-s", type=float, default=300)
    parser.add_argument("--phases", nargs="*", default=list(LIMITS_S), choices=list(LIMITS_S))
    for name in ("--phase", "--work", "--compiled", "--bundles"):
        parser.add_argument(name, type=str if name == "--phase" else Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.phase:
        # Lines of the swap, with the seconds of each network, on stderr.
        logging.basicConfig(level=logging.INFO)
        print(json.dumps(compile_phase(asked) if asked.phase == "compile" else Phase(asked).run()), flush=True)
        os._exit(0)  # as a worker ends
    if not asked.models.is_dir():
        from retalking_core.weights.synthesis import synthesize
        from retalking_core.weights.table import ENGINE_WEIGHTS

        synthesize(asked.models, 1, [*ENGINE_WEIGHTS, "s3fd", "fan2d"])
    given = [str(asked.video), str(asked.speech), "--models", str(asked.models), "--batch", str(asked.batch)]
    given += ["--track", str(asked.track)] if asked.track else []
    began, document = time.monotonic(), dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="cold-start-") as folder:
        for name in asked.phases:
            left_s = asked.budget_s - (time.monotonic() - began)
            least_s = LIMITS_S[name] / 2
            if left_s < least_s:
                document[name] = {"failed": f"left out: {left_s:.0f} s of the budget are left"}
            else:
                document[name] = run_phase(name, given, Path(folder), min(left_s, LIMITS_S[name]))
            if asked.json:
                asked.json.parent.mkdir(parents=True, exist_ok=True)
                asked.json.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
