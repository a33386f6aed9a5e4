"""What a caller of the service waits for: `retalking bench service VIDEO SPEECH [--repeat N] [--json FILE]`.

Starts `retalking up` in a fresh folder, waits for `/readyz`, and sends one job after the other through `POST /jobs`:
with `evaluate_policy` none, inline and after in turn, so that all see the same machine. Of each the smallest of N runs
counts. On a busy machine only the ratios say anything, and they say too much: what runs side by side waits for cores.

start: seconds from the command to `/readyz`, to a fiftieth. render: read, analyze and synthesize of the job without
evaluation. job: from `started_at` to `finished_at`. evaluated: to the event `job.evaluated`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from retalking_client import Client
from tests.services import free_port

ROOT = Path(__file__).resolve().parents[1]
READY_S, JOB_S = 180.0, 600.0
POLICIES = ("none", "inline", "after")
RENDER = ("read", "analyze", "synthesize")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(prog="retalking bench service", description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--engine", default="preview")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    asked = parser.parse_args(arguments)
    starts = []
    for number in range(max(1, asked.starts)):
        with started() as (url, start_s):
            starts.append(start_s)
            if number == 0:
                jobs = measure_jobs(url, asked)
    figures = figures_of(jobs, min(starts))
    for name, value in figures.items():
        print(f"{name:<36}{value:>8.2f}")
    if asked.json is not None:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


@contextmanager
def started() -> Iterator[tuple[str, float]]:
    """A service of its own: its URL, and the seconds until it was ready."""
    with tempfile.TemporaryDirectory(prefix="retalking-bench-") as folder:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RETALKING_")}
        command = [sys.executable, "-m", "cli.main", "up", "--port", str(port), "--data", f"{folder}/data"]
        log = Path(folder) / "up.log"
        with log.open("wb") as sink:
            began = time.perf_counter()
            process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink, env=environment)
        try:
            while not is_ready(url):
                if process.poll() is not None or time.perf_counter() - began > READY_S:
                    raise SystemExit(log.read_text())
                time.sleep(0.02)
            yield url, time.perf_counter() - began
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def measure_jobs(url: str, asked: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Times of each job, by policy. The first round only warms up."""
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with Client(url) as client:
        for turn in range(asked.repeat + 1):
            for policy in POLICIES:
                times = measure_job(url, client, asked, policy)
                if turn:
                    found[policy].append(times)
    return found


def measure_job(url: str, client: Client, asked: argparse.Namespace, policy: str) -> dict[str, float]:
    job = client.submit(asked.video, asked.speech, engine=asked.engine, evaluate_policy=policy)
    began = time.perf_counter()
    while not (job := client.get(job.id)).is_over or job.evaluation_pending:
        if time.perf_counter() - began > JOB_S:
            raise SystemExit(f"{job.id} is not over after {JOB_S:.0f} s")
        time.sleep(0.05)
    job.raise_for_status()
    assert job.render is not None
    times = {"job": seconds(job.started_at, job.finished_at)}
    times["render"] = sum(job.render.stage_times_s[name] for name in RENDER)
    if policy == "after":
        # The client's own listener ends with the job; the stream goes on to the event.
        lines = httpx.get(f"{url}/jobs/{job.id}/events", timeout=60).text.splitlines()
        events = [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data:")]
        (at,) = (event["at"] for event in events if event["event"] == "job.evaluated")
        times["evaluated"] = seconds(job.started_at, datetime.fromisoformat(at))
    return times


def seconds(one: Any, other: Any) -> float:
    assert isinstance(one, datetime)
    assert isinstance(other, datetime)
    return (other - one).total_seconds()


def figures_of(jobs: dict[str, list[dict[str, float]]], start_s: float) -> dict[str, float]:
    smallest = {policy: {name: min(times[name] for times in runs) for name in runs[0]} for policy, runs in jobs.items()}
    render_s = smallest["none"]["render"]
    return {
        "start to /readyz, s": start_s,
        "render, s": render_s,
        **{f"job, evaluate_policy={policy}, s": smallest[policy]["job"] for policy in POLICIES},
        "evaluated, evaluate_policy=after, s": smallest["after"]["evaluated"],
        "job inline over render": smallest["inline"]["job"] / render_s,
        "job after over render": smallest["after"]["job"] / render_s,
    }


if __name__ == "__main__":
    main()
