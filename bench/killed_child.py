"""How soon a job whose render process was killed is queued again: `python -m bench.killed_child [--json FILE]`.

The whole service with its default lease and janitor, two render workers whose engine only waits; one render child after
the other gets SIGKILL in mid-render. Measured from the signal to the event that tells the caller. Ends with 1 when the
slowest is not below LIMIT_S: by the default lease alone it would be up to 34 s.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from jobs.settings import Settings
from tests.faults.service import Service
from tests.services import wait_until

KILLS = 20
LIMIT_S = 3.0
RENDER_MS = 4000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        queued_s, claimed_s = measure(Path(folder))
    figures = {
        "load_before": round(load, 2),
        "kills": len(queued_s),
        "queued_again_s": {"p50": median(queued_s), "max": max(queued_s)},
        "claimed_again_s": {"p50": median(claimed_s), "max": max(claimed_s)},
    }
    print(json.dumps(figures, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return int(max(queued_s) >= LIMIT_S)


def measure(folder: Path) -> tuple[list[float], list[float]]:
    """Seconds from each kill until the job was queued again, and until another process had claimed it."""
    settings = {name: str(Settings.model_fields[name.lower()].default) for name in ("LEASE_S", "JANITOR_INTERVAL_S")}
    service = Service(folder, None, **settings)
    try:
        service.start()
        delays = [kill_one(service) for _ in range(KILLS)]
    finally:
        service.stop()
    return [round(queued, 2) for queued, _ in delays], [round(claimed, 2) for _, claimed in delays]


def kill_one(service: Service) -> tuple[float, float]:
    (job_id,) = service.submit_many(RENDER_MS)
    child = service.child_of(service.wait_running(job_id))
    killed_at = time.time()
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: service.get(job_id).attempt == 2, 60, 0.01, "another process has the job")
    moments = {event.event: event.at.timestamp() for event in service.store.jobs.events(job_id, after=None)}
    service.client.post(f"/jobs/{job_id}/cancel")
    service.mend()
    return moments["job.requeued"] - killed_at, moments["job.started"] - killed_at


if __name__ == "__main__":
    sys.exit(main())
