"""One long clip over several GPUs of one host, and independent jobs on them: `python -m bench.two_gpus VIDEO SPEECH`.

    python -m bench.two_gpus 1.mp4 1.wav --setting RETALKING_MODELS_DIR=DIR --gpu 0 --gpu 1 [--json FILE]

Starts `retalking up` with the first of the GPUs and, beside it, with all. Once the kernels of both are compiled, one is
idle while the other gets the clip repeated to `--seconds` at `--canvas`, which several workers split, and then
`--together` short jobs at once. Jobs are not evaluated.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.clips import CANVASES
from bench.engine_inputs import Inputs
from bench.service import ROOT, Service, finished, seconds, started, wait_for_kernels
from retalking_client import Client


def measure(service: Service, asked: argparse.Namespace, clip: Path, speech: Path, workers: int) -> dict[str, Any]:
    """Seconds and notes of the long job; frames a second of the short ones."""
    with Client(service.url) as client:

        def submit(video: Path, audio: Path) -> Any:
            return client.submit(video, audio, engine=asked.engine, evaluate_policy="none")

        # Most likely every worker draws some of these.
        for job in [submit(asked.video, asked.speech) for _ in range(3 * workers)]:
            finished(client, job)
        long = finished(client, submit(clip, speech))
        began = time.perf_counter()
        short = [finished(client, job) for job in [submit(asked.video, asked.speech) for _ in range(asked.together)]]
        took_s = time.perf_counter() - began
    assert long.render is not None
    assert long.result is not None
    frames = sum(job.result.frames for job in short if job.result is not None)
    return {
        "long_s": round(seconds(long.started_at, long.finished_at), 2),
        "long_frames": long.result.frames,
        "stages_s": long.render.stage_times_s,
        "notes": [note.sentence for note in long.render.notes if note.code == "split_render"],
        "short_frames_per_s": round(frames / took_s, 1),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--engine", default="videoretalking")
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="of the service")
    parser.add_argument("--gpu", action="append", required=True, help="number of a CUDA device; once for each")
    parser.add_argument("--canvas", default="1080p", choices=[canvas.name for canvas in CANVASES])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--together", type=int, default=8)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    document: dict[str, Any] = {"canvas": asked.canvas, "seconds": asked.seconds, "runs": {}}
    with tempfile.TemporaryDirectory(prefix="retalking-bench-") as folder, ExitStack() as stack:
        inputs = Inputs(asked.video, asked.speech, None, Path(folder))
        (clip, _), speech = inputs.clip(asked.canvas, asked.seconds), inputs.speech(asked.seconds)
        services = {
            gpus: stack.enter_context(started(ROOT, asked.setting, gpus))
            for gpus in dict.fromkeys([tuple(asked.gpu[:1]), tuple(asked.gpu)])
        }
        for service in services.values():
            wait_for_kernels(service)
        for gpus, service in services.items():
            found = measure(service, asked, clip, speech, len(gpus))
            document["runs"][" ".join(gpus)] = found
            print(f"GPUs {' '.join(gpus)}: {json.dumps(found)}", flush=True)
            if asked.json:
                asked.json.write_text(json.dumps(document, indent=1) + "\n")
    one, *others = document["runs"].values()
    for found in others:
        for name in ("long_s", "short_frames_per_s"):
            ratio = found[name] / one[name]
            print(f"{name}: {ratio if name.startswith('short') else 1 / ratio:.2f} times one GPU")


if __name__ == "__main__":
    main()
