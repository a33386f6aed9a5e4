"""From a bare process to finished files: `python -m bench.cold_start VIDEO SPEECH --models DIR --kernels DIR [--json FILE]`.

One process, timed from its start: imports, weights, the first file with whatever kernels are there, then, once the
compiled kernels are swapped in, more files. Run it with an empty folder of kernels, and again with the filled one.

before_ready: wait for the kernels before the first file. compare: PSNR of luma in the face's box, plain and compiled
kernels against float32, of each frame as the encoder gets it.
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


def process_start() -> float:
    """When this process was started, in seconds since the epoch (Linux)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    up_s = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - up_s + ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--kernels", type=Path, required=True, help="folder of compiled kernels")
    parser.add_argument("--track", type=Path, help="replay this face track")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--before-ready", action="store_true")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    started = process_start()
    found: dict[str, Any] = {"at_s": {}, "renders": []}

    def mark(name: str) -> None:
        found["at_s"][name] = time.time() - started
        print(f"{found['at_s'][name]:8.2f} s {name}", flush=True)

    mark("interpreter")
    import torch

    from bench.comparison import compare, handed_over
    from bench.engine import render
    from bench.replay import ReplayedTrack, load_track
    from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
    from retalking_core.faces.dlib_tracker import DlibFaceTracker
    from retalking_core.networks.inference import fast_variants
    from retalking_core.networks.kernels import KernelSwap
    from retalking_core.weights.store import NetworkStore

    mark("imports")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    track = load_track(asked.track) if asked.track else None

    def engine_on(networks: NetworkStore) -> VideoRetalkingEngine:
        tracker = DlibFaceTracker() if track is None else ReplayedTrack(track, networks)
        return VideoRetalkingEngine(networks, tracker=tracker, batch_size=asked.batch)

    networks = NetworkStore(asked.models, device, fast_variants(asked.batch) if device == "cuda" else {})
    engine = engine_on(networks)
    engine.warm_up()
    if track is not None:  # its detectors' work is done by these
        for name in ("s3fd", "fan2d"):
            networks.get(name)
    mark("weights")
    swap = KernelSwap(networks.networks, asked.kernels)
    frames: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:

        def draw() -> Any:
            began = time.perf_counter()
            report = render(engine, asked.video, asked.speech, Path(folder))
            seconds = time.perf_counter() - began
            codes = [note.code for note in report.notes]
            found["renders"].append({"s": seconds, "frames": report.frames, "notes": codes})
            print(f"{seconds:.2f} s for {report.frames} frames {codes}", flush=True)
            return report

        if asked.compare:
            frames["plain"] = handed_over(draw)
            mark("first file")
        thread = None if asked.before_ready else swap.start()
        if thread is None:
            swap.run()
            mark("kernels")
        if not asked.compare:
            draw()
            mark("first file")
        if thread is not None:
            while thread.is_alive():
                draw()
            mark("kernels")
        for _ in range(asked.repeat):
            draw()
        if asked.compare:
            frames["compiled"] = handed_over(draw)
            exact = NetworkStore(asked.models, device)
            engine = engine_on(exact)
            frames["exact"] = handed_over(draw)
            if track is not None:
                found["psnr_db"] = {
                    name: compare(frames["exact"], frames[name], track) for name in ("plain", "compiled")
                }
                print(found["psnr_db"])
    found |= {"failures": swap.failures, "torch": torch.__version__, "device": device}
    if device == "cuda":
        found["device"] = torch.cuda.get_device_name()
        found["peak_gib"] = torch.cuda.max_memory_reserved() / 2**30
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
