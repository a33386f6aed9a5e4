"""What the whole service gives on a GPU: `python -m bench.gpu_service VIDEO SPEECH --models DIR [--slots 1 2]`.

Starts `retalking up` with each number of `RETALKING_GPU_SLOTS`, sends jobs through `POST /jobs`, and prints what one
job says of itself and how many the service makes a minute: with faces that it has not seen (each job has pads of its
own, which its face cache goes by) and with one that it has.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Service, running_service

READY_S, JOB_S = 400.0, 300.0
TOLD = ("engine", "device", "result", "render", "evaluation", "started_at", "finished_at")


@dataclass(frozen=True)
class Throughput:
    """wall_s: from the first submission to the end of the last job. frames_per_s: of all slots together."""

    slots: int
    face_cache: str
    jobs: int
    wall_s: float
    frames_per_s: float


def submit(service: Service, video: Path, speech: Path, pad: int, **fields: str) -> str:
    answer = service.submit(video, speech, engine="videoretalking", pads=json.dumps({"bottom": pad}), **fields)
    if answer.status_code != 202:
        raise SystemExit(answer.text)
    return answer.json()["id"]


def finished(service: Service, job_id: str) -> dict[str, Any]:
    job = service.finish(job_id, JOB_S)
    if job["status"] != "succeeded":
        raise SystemExit(f"{job_id}: {job['error']}")
    return job


def measure(service: Service, asked: argparse.Namespace, slots: int, pads: list[int]) -> Throughput:
    """Jobs sent at once, and waited for."""
    began = time.perf_counter()
    ids = [submit(service, asked.video, asked.speech, pad, evaluate="[]") for pad in pads]
    jobs = [finished(service, job_id) for job_id in ids]
    wall_s = time.perf_counter() - began
    caches = {job["render"]["face_cache"] for job in jobs}
    frames = sum(job["result"]["frames"] for job in jobs)
    return Throughput(slots, "/".join(sorted(caches)), len(jobs), wall_s, frames / wall_s)


def wait_for_slots(service: Service, slots: int) -> None:
    deadline = time.monotonic() + READY_S
    while service.client.get("/readyz").json().get("parts", {}).get("workers") != f"{slots} live":
        if time.monotonic() > deadline:
            raise SystemExit(f"fewer than {slots} slots came up")
        time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--slots", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    document: dict[str, Any] = {"jobs": [], "throughput": []}
    for slots in asked.slots:
        settings = {"RETALKING_MODELS_DIR": str(asked.models), "RETALKING_GPU_SLOTS": str(slots)}
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, running_service(Path(folder), READY_S, **settings) as service:
            wait_for_slots(service, slots)
            print(f"{slots} slots ready after {time.perf_counter() - began:.0f} s", flush=True)
            for job_id in warm_ups(service, asked, slots):
                finished(service, job_id)
            # Twice, since the first evaluation loads its networks.
            for _ in range(2):
                job = finished(service, submit(service, asked.video, asked.speech, 0))
                print(json.dumps({name: job[name] for name in TOLD}), flush=True)
                document["jobs"].append(job)
            for pads in (list(range(10, 10 + asked.jobs)), [0] * asked.jobs):
                found = measure(service, asked, slots, pads)
                print(found, flush=True)
                document["throughput"].append(asdict(found))
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(document, indent=1) + "\n")


def warm_ups(service: Service, asked: argparse.Namespace, slots: int) -> list[str]:
    """Two for each slot: whichever slot takes them, each has most likely drawn a face."""
    return [submit(service, asked.video, asked.speech, 1 + k, evaluate="[]") for k in range(2 * slots)]


if __name__ == "__main__":
    main()
