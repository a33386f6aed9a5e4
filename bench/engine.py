"""How fast the videoretalking engine is, warm, decode and encode included.

    python -m bench.engine VIDEO SPEECH --models DIR [--track FILE.npz] [--repeat N] [--json FILE]

--track replays a face track instead of looking for the face: `--save-track FILE.npz` writes one, on any machine that
has dlib's data. So the figure is that of everything but detection. The first render is not counted: it warms up.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from retalking_core.engines.videoretalking import VideoRetalkingEngine
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.track import OnFrame, TrackRequest
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.networks.inference import InferenceVariant
from retalking_core.options import RenderOptions
from retalking_core.progress import ignore_progress
from retalking_core.types import FaceTrack, FrameSource, RenderReport
from retalking_core.weights.store import NetworkStore

# The networks that the catalogue lets run in half precision; the others stay in float32.
HALF = ("dnet", "lnet", "enet", "gpen512", "gfpgan")


class ReplayedTrack:
    """A FaceTracker that gives back what another one found."""

    def __init__(self, file: Path) -> None:
        with np.load(file) as arrays:
            self._track = FaceTrack(arrays["boxes"], arrays["landmarks"], arrays["visible"])

    def warm_up(self) -> None:
        """Everything is loaded already."""

    def track(self, source: FrameSource, request: TrackRequest, on_frame: OnFrame) -> FaceTrack:
        if len(self._track.visible) != source.info.frame_count:
            raise SystemExit("the track belongs to another video")
        on_frame(len(request.indices), len(request.indices))
        return self._track


def save_track(video: Path, file: Path) -> None:
    source = open_video(video, DEFAULT_LIMITS)
    request = TrackRequest(range(source.info.frame_count))
    track = DlibFaceTracker().track(source, request, lambda _done, _total: None)
    np.savez(file, boxes=track.boxes, landmarks=track.landmarks, visible=track.visible)


def measure(engine: VideoRetalkingEngine, video: Path, speech: Path) -> tuple[float, RenderReport]:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        report = engine.render(video, speech, Path(folder) / "result.mp4", RenderOptions(), ignore_progress)
        return time.perf_counter() - began, report


def print_table(wall_s: float, report: RenderReport, precision: str) -> None:
    rate = f"{report.frames / wall_s:.1f} frames a second, {report.duration_s / wall_s:.2f} times real time"
    print(f"{precision}: {report.width}x{report.height}, {report.frames} frames on {report.device}: {rate}")
    for name, seconds in [*report.stage_times_s.items(), ("wall", wall_s)]:
        print(f"  {name:<12}{seconds:>8.2f} s{1000 * seconds / report.frames:>9.1f} ms/frame")
    for note in report.notes:
        print(f"  {note}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("speech", type=Path, nargs="?")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--track", type=Path, help="replay this face track")
    parser.add_argument("--save-track", type=Path, help="write a face track and end")
    parser.add_argument("--precision", nargs="*", default=["fp32"], choices=["fp32", "tf32", "bf16", "fp16"])
    parser.add_argument("--batch", type=int, help="frames at once; absent: the engine's own choice")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.save_track:
        save_track(arguments.video, arguments.save_track)
        return
    if arguments.speech is None:
        parser.error("SPEECH is missing")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tracker = ReplayedTrack(arguments.track) if arguments.track else None
    runs = []
    for precision in arguments.precision:
        variants = {} if precision == "fp32" else {name: InferenceVariant(precision) for name in HALF}
        networks = NetworkStore(arguments.models, device, variants)
        engine = VideoRetalkingEngine(networks, tracker=tracker, batch_size=arguments.batch)
        engine.warm_up()
        measure(engine, arguments.video, arguments.speech)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found = [measure(engine, arguments.video, arguments.speech) for _ in range(arguments.repeat)]
        wall_s, report = min(found, key=lambda run: run[0])
        print_table(wall_s, report, precision)
        peak_gib = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
        if peak_gib is not None:
            print(f"  peak memory {peak_gib:.1f} GiB")
        runs.append(
            {
                "precision": precision,
                "frames": report.frames,
                "wall_s": wall_s,
                "all_wall_s": [wall for wall, _ in found],
                "stages_s": report.stage_times_s,
                "peak_gib": peak_gib,
            }
        )
    if arguments.json:
        name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
        document = {"device": name, "torch": torch.__version__, "video": arguments.video.name, "runs": runs}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
