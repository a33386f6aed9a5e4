"""What a caller of the service waits for: `retalking bench service VIDEO SPEECH`.

Starts `retalking up` in a fresh folder, waits for `/readyz`, and sends one job after the other through `POST /jobs`,
with `evaluate_policy` none, inline and after in turn, so that all see the same machine; then several inline jobs at
once for the throughput. `--root` names another checkout, whose service is measured beside the first, by turns.

    retalking bench service VIDEO SPEECH --engine videoretalking --setting RETALKING_MODELS_DIR=DIR --hits

measures the neural engine, once its kernels are compiled. `--hits`: each job is sent with pads of its own, so that its
face is not in the cache, and sent again, when it is.

wall: seconds by the clock, p50 and p95 over the runs, and the smallest. CPU: seconds of all processes of the service.
On a machine with other work only CPU seconds can be compared: what runs side by side waits for cores.

start: from the command to `/readyz`, to a tenth. job: from `started_at` to `finished_at`, and its stages: read,
analyze, synthesize, evaluate, and the rest. evaluated: to the event `job.evaluated`.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count, product
from pathlib import Path
from typing import Any

import httpx
import psutil

from retalking_client import Client, Job
from tests.services import free_port

ROOT = Path(__file__).resolve().parents[1]
READY_S, COMPILED_S, JOB_S = 180.0, 400.0, 600.0
POLICIES = ("none", "inline", "after")
RENDER = ("read", "analyze", "synthesize")
FIRST_PAD = 8
SLOWER_BY = 1.15
# Figures that `--against` compares: those that other work on the machine hardly moves.
GUARDED = ("start, CPU s", "job none, CPU s", "job inline, CPU s")

Runs = dict[str, list[float]]
"""Measured values by the name of the figure."""


@dataclass(frozen=True)
class Service:
    """A service of its own. start_s, start_cpu_s: what it took until it was ready. pads: below the face, px; each makes
    it another face to the face cache."""

    url: str
    process: psutil.Process
    start_s: float
    start_cpu_s: float
    pads: Iterator[int] = field(default_factory=lambda: count(FIRST_PAD))

    def next_face(self) -> dict[str, Any]:
        """Options of a job whose face is not in the cache."""
        return {"pads": {"bottom": next(self.pads)}}

    def cpu_s(self) -> float:
        """CPU seconds of its processes so far."""
        return cpu_s_of(self.process)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and write them as JSON. Status 1 if `--against` finds a figure that became worse."""
    asked = parse_arguments(arguments)
    roots = list(dict.fromkeys(root.resolve() for root in (ROOT, *asked.root)))
    runs: dict[Path, Runs] = {root: defaultdict(list) for root in roots}
    for _ in range(asked.starts):
        for root in roots:
            with started(root, asked.setting, asked.gpu) as service:
                add(runs[root], {"start, s": service.start_s, "start, CPU s": service.start_cpu_s})
    devices = measure_turns(asked, runs)
    figures = {str(root): figures_of(found) for root, found in runs.items()}
    for root, table in figures.items():
        print_table(root, table)
    document = {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "engine": asked.engine,
        "devices": devices,
        "figures": figures[str(roots[0])],
    }
    if asked.json is not None:
        asked.json.write_text(json.dumps(document, indent=2) + "\n")
    if asked.against and (worse := worse_figures(document, json.loads(asked.against.read_text()))):
        print("worse than before:", *worse, sep="\n  ")
        sys.exit(1)


def measure_turns(asked: argparse.Namespace, runs: Mapping[Path, Runs]) -> list[str]:
    """Jobs of each kind and root in turn, then several at once. Returns the devices that the jobs named."""
    devices: dict[str, None] = {}
    with ExitStack() as stack:
        services = {root: stack.enter_context(started(root, asked.setting, asked.gpu)) for root in runs}
        for service in services.values():
            wait_for_kernels(service)
        for turn in range(asked.repeat + 1):
            for policy, (root, service) in product(POLICIES, services.items()):
                face = service.next_face() if asked.hits else {}
                for suffix in ("", " hit") if asked.hits else ("",):
                    measured, device = measure_job(service, asked, policy, suffix, face)
                    devices[device] = None
                    if turn:  # the first round only warms up
                        add(runs[root], measured)
        if asked.together:
            for root, service in services.items():
                measure_throughput(service, asked, runs[root])
    return list(devices)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="retalking bench service", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--engine", default="preview")
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="of the service")
    parser.add_argument("--gpu", action="append", default=[], help="CUDA device for a render worker; once for each")
    parser.add_argument("--hits", action="store_true", help="faces that are not in the cache, and that are")
    parser.add_argument("--repeat", type=int, default=5, help="jobs of each policy")
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--together", type=int, default=4, help="jobs sent at once for the throughput; 0: none")
    parser.add_argument("--root", type=Path, action="append", default=[], help="another checkout, measured by turns")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--against", type=Path, help="JSON of an earlier run on such a machine: the guard")
    return parser.parse_args(arguments)


@contextmanager
def started(root: Path, settings: Sequence[str] = (), gpus: Sequence[str] = ()) -> Iterator[Service]:
    """The service of a checkout, in a fresh data folder. settings: `NAME=VALUE`. gpus: see `retalking up --gpu`."""
    with tempfile.TemporaryDirectory(prefix="retalking-bench-") as folder:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RETALKING_")}
        paths = [str(root), *(path for path in os.environ.get("PYTHONPATH", "").split(":") if path != str(ROOT))]
        environment["PYTHONPATH"] = ":".join(filter(None, paths))
        environment |= dict(setting.split("=", 1) for setting in settings)
        command = [sys.executable, "-m", "cli.main", "up", "--port", str(port), "--data", f"{folder}/data"]
        command += [part for number in gpus for part in ("--gpu", number)]
        log = Path(folder) / "up.log"
        with log.open("wb") as sink:
            began = time.perf_counter()
            process = subprocess.Popen(command, cwd=root, stdout=sink, stderr=sink, env=environment)
        try:
            # More often costs CPU time, which the service needs to start.
            while parts_of(url).get("workers") != f"{max(1, len(gpus)) * slots_of(environment)} live":
                if process.poll() is not None or time.perf_counter() - began > READY_S:
                    raise SystemExit(log.read_text())
                time.sleep(0.1)
            start_s, found = time.perf_counter() - began, psutil.Process(process.pid)
            yield Service(url, found, start_s, cpu_s_of(found))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def cpu_s_of(process: psutil.Process) -> float:
    """Of a process and its descendants, ended ones as far as their parents waited for them."""
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        try:
            total += sum(each.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def slots_of(environment: Mapping[str, str]) -> int:
    return int(environment.get("RETALKING_GPU_SLOTS", "1"))


def parts_of(url: str) -> dict[str, str]:
    """What `/readyz` says of each part; nothing while it is not ready."""
    try:
        answer = httpx.get(f"{url}/readyz", timeout=5)
    except httpx.TransportError:
        return {}
    return answer.json()["parts"] if answer.status_code == 200 else {}


def wait_for_kernels(service: Service) -> None:
    """Until every worker draws with compiled kernels, if its engine compiles any."""
    began = time.perf_counter()
    while (kernels := parts_of(service.url).get("kernels")) not in ("compiled", "none"):
        if time.perf_counter() - began > COMPILED_S:
            raise SystemExit(f"kernels after {COMPILED_S:.0f} s: {kernels}")
        time.sleep(1.0)
    print(f"kernels {kernels} {time.perf_counter() - began:.0f} s after the service was ready", flush=True)


def measure_job(
    service: Service, asked: argparse.Namespace, policy: str, suffix: str, face: Mapping[str, Any]
) -> tuple[dict[str, float], str]:
    """One job: seconds by figure, and its device. suffix: of the figures' names. face: options of the job."""
    before_s = service.cpu_s()
    with Client(service.url) as client:
        job = client.submit(asked.video, asked.speech, engine=asked.engine, evaluate_policy=policy, **face)
        job = finished(client, job)
    assert job.render is not None
    if asked.hits and job.render.face_cache != (suffix.strip() or "miss"):
        raise SystemExit(f"{job.id}: the face cache told {job.render.face_cache}")
    job_s, stages = seconds(job.started_at, job.finished_at), dict(job.render.stage_times_s)
    times = {"job": job_s, "waited": seconds(job.created_at, job.started_at)}
    times |= {name: stages[name] for name in (*RENDER, "evaluate") if name in stages}
    times["render"] = sum(stages[name] for name in RENDER)
    times["rest"] = job_s - times["render"] - stages.get("evaluate", 0.0)
    if policy == "after":
        # The client's own listener ends with the job; the stream goes on to the event.
        lines = httpx.get(f"{service.url}/jobs/{job.id}/events", timeout=60).text.splitlines()
        events = [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data:")]
        (at,) = (event["at"] for event in events if event["event"] == "job.evaluated")
        times["evaluated"] = seconds(job.started_at, datetime.fromisoformat(at))
    named = {f"{name} {policy}{suffix}, s": value for name, value in times.items()}
    return named | {f"job {policy}{suffix}, CPU s": service.cpu_s() - before_s}, job.render.device


def measure_throughput(service: Service, asked: argparse.Namespace, runs: Runs) -> None:
    """Output frames a second over jobs that were sent at once, evaluation included."""
    faces = [service.next_face() if asked.hits else {} for _ in range(asked.together)]
    with Client(service.url) as client:
        for suffix in ("", " hit") if asked.hits else ("",):
            began = time.perf_counter()
            sent = [client.submit(asked.video, asked.speech, engine=asked.engine, **face) for face in faces]
            jobs = [finished(client, job) for job in sent]
            took_s = time.perf_counter() - began
            frames = sum(job.result.frames for job in jobs if job.result is not None)
            add(runs, {f"throughput of {asked.together} jobs{suffix}, frames/s": frames / took_s})


def finished(client: Client, job: Job) -> Job:
    """The job once it is over and evaluated."""
    began = time.perf_counter()
    while not (job := client.get(job.id)).is_over or job.evaluation_pending:
        if time.perf_counter() - began > JOB_S:
            raise SystemExit(f"{job.id} is not over after {JOB_S:.0f} s")
        time.sleep(0.1)
    job.raise_for_status()
    return job


def seconds(one: Any, other: Any) -> float:
    assert isinstance(one, datetime)
    assert isinstance(other, datetime)
    return (other - one).total_seconds()


def add(runs: Runs, measured: Mapping[str, float]) -> None:
    for name, value in measured.items():
        runs[name].append(value)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def figures_of(runs: Runs) -> dict[str, dict[str, float]]:
    """Figure -> p50, p95 and the smallest, and the ratios of the smallest ones."""
    figures = {
        name: {"p50": percentile(found, 0.5), "p95": percentile(found, 0.95), "min": min(found)}
        for name, found in runs.items()
    }
    for suffix in (each for each in ("", " hit") if f"render none{each}, s" in runs):
        render_s = min(runs[f"render none{suffix}, s"])
        for policy in POLICIES:
            figures[f"job {policy}{suffix} over render"] = {"min": min(runs[f"job {policy}{suffix}, s"]) / render_s}
    return figures


def print_table(title: str, figures: Mapping[str, Mapping[str, float]]) -> None:
    print(f"\n{title}\n{'':<40}{'p50':>9}{'p95':>9}{'min':>9}")
    for name, values in figures.items():
        cells = (f"{values[key]:>9.2f}" if key in values else f"{'':>9}" for key in ("p50", "p95", "min"))
        print(f"{name:<40}{''.join(cells)}")


def worse_figures(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """The guarded figures that grew by more than SLOWER_BY, their smallest values compared."""
    found = []
    for name in GUARDED:
        one, other = (document["figures"].get(name, {}).get("min") for document in (now, before))
        if one is not None and other is not None and one > SLOWER_BY * other:
            found.append(f"{name}: {one:.2f}, was {other:.2f}")
    return found


if __name__ == "__main__":
    main()
