"""From a bare process to finished files.

    python -m bench.cold_start VIDEO SPEECH --models DIR --kernels DIR [--track FILE.npz] [--json FILE]

One process, timed from its start: imports, weights, the first file with whatever kernels are there, and more files once
the compiled ones are swapped in. Run it with an empty folder of kernels, and again with the folder that it has filled.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.comparison import compare, handed_over
from bench.engine import render
from bench.replay import ReplayedTrack, load_track
from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.networks.inference import fast_variants
from retalking_core.networks.kernels import KernelSwap
from retalking_core.types import Frame
from retalking_core.weights.store import NetworkStore


def process_start() -> float:
    """When this process was started, in seconds since the epoch (Linux)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    up_s = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - up_s + ticks / os.sysconf("SC_CLK_TCK")


class ColdStart:
    """What happened when, in seconds since the process was started, and every render."""

    def __init__(self, asked: argparse.Namespace, folder: Path) -> None:
        self._asked, self._folder = asked, folder
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._track = load_track(asked.track) if asked.track else None
        self._started = process_start()
        self.at_s: dict[str, float] = {}
        self.renders: list[dict[str, Any]] = []

    def mark(self, name: str) -> None:
        self.at_s[name] = time.time() - self._started
        print(f"{self.at_s[name]:8.2f} s {name}", flush=True)

    def start(self, mode: str) -> tuple[VideoRetalkingEngine, NetworkStore]:
        fast = mode == "fast" and self._device == "cuda"
        networks = NetworkStore(self._asked.models, self._device, fast_variants(self._asked.batch) if fast else {})
        tracker = DlibFaceTracker() if self._track is None else ReplayedTrack(self._track, networks)
        engine = VideoRetalkingEngine(networks, tracker=tracker, batch_size=self._asked.batch)
        engine.warm_up()
        for name in ("s3fd", "fan2d") if self._track is not None else ():  # what the replay works with
            networks.get(name)
        return engine, networks

    def draw(self, engine: VideoRetalkingEngine) -> list[Frame]:
        """The frames that the encoder was given, if they are to be compared."""
        began = time.perf_counter()
        reports: list[Any] = []

        def work() -> None:
            reports.append(render(engine, self._asked.video, self._asked.speech, self._folder))

        frames = handed_over(work) if self._asked.compare else []
        if not self._asked.compare:
            work()
        seconds, codes = time.perf_counter() - began, [note.code for note in reports[0].notes]
        self.renders.append({"s": seconds, "frames": reports[0].frames, "notes": codes})
        print(f"{seconds:.2f} s for {reports[0].frames} frames {codes}", flush=True)
        return frames

    def measure(self) -> dict[str, Any]:
        self.mark("imports")
        engine, networks = self.start("fast")
        self.mark("weights")
        swap = KernelSwap(networks.networks, self._asked.kernels)
        drawn = {}
        if self._asked.compare:
            drawn["plain"] = self.draw(engine)
        if self._asked.before_ready:
            swap.run()
            self.mark("kernels")
            self.draw(engine)
            self.mark("first file")
        else:
            swapping = swap.start()
            self.draw(engine)
            self.mark("first file")
            while swapping.is_alive():
                self.draw(engine)
            self.mark("kernels")
        for _ in range(self._asked.repeat):
            drawn["compiled"] = self.draw(engine)
        document = {"at_s": self.at_s, "renders": self.renders, "failures": swap.failures, "torch": torch.__version__}
        if self._asked.compare:
            exact = self.draw(self.start("exact")[0])
            document["against_float32"] = {name: compare(exact, each, self._track) for name, each in drawn.items()}
            print(document["against_float32"])
        if self._device == "cuda":
            document |= {
                "device": torch.cuda.get_device_name(),
                "peak_gib": torch.cuda.max_memory_reserved() / 2**30,
            }
        return document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--kernels", type=Path, required=True, help="folder of compiled kernels")
    parser.add_argument("--track", type=Path, help="replay this face track")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--before-ready", action="store_true", help="wait for the kernels before the first file")
    parser.add_argument("--compare", action="store_true", help="PSNR of plain and compiled kernels against float32")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        document = ColdStart(asked, Path(folder)).measure()
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
