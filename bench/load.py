"""How the service bears load: `python -m bench.load [--json FILE]` prints a table; about ten minutes on two cores.

Real parts: Redis, the local object store, the API under uvicorn, render workers whose engine only copies, a webhook
worker. Four measurements:

jobs     many clients submit jobs at once and ask for each until it is over: throughput, latency, memory, what was lost
queue    one client asks for jobs in a line of 100,000
upload   one file of 1 GB through `POST /jobs`
waits    2,000 clients wait for jobs for 60 s (`Prefer: wait`): memory, and the latency of other calls meanwhile
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import resource
import secrets
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.loaded_service import MB, LoadedService, MemoryWatch
from jobs.models import InputRef, JobRequest, JobSpec
from jobs.names import new_job_id
from jobs.store import JobStore
from tests.jobs.making import start_job, succeed
from tests.media.clips import make_silent_video, make_wav

TERMINAL = {"job.succeeded", "job.failed", "job.canceled"}


@cache
def media() -> tuple[bytes, bytes]:
    """Bytes of a video of ten frames and of a second of sound: what a worker does around the engine takes no longer."""
    with tempfile.TemporaryDirectory() as folder:
        video, speech = make_silent_video(Path(folder) / "a.mp4"), make_wav(Path(folder) / "a.wav")
        return video.read_bytes(), speech.read_bytes()


@dataclass
class Latencies:
    """Seconds of each call."""

    submit: list[float] = field(default_factory=list)
    get: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    rounded = {name: round(1000 * cuts[at], 1) for name, at in (("p50", 49), ("p95", 94), ("p99", 98))}
    return rounded | {"max": round(1000 * max(seconds), 1), "calls": len(seconds)}


async def timed(http: httpx.AsyncClient, into: list[float], method: str, path: str, **kwargs: Any) -> httpx.Response:
    began = time.perf_counter()
    answer = await http.request(method, path, **kwargs)
    into.append(time.perf_counter() - began)
    return answer


async def one_client(http: httpx.AsyncClient, jobs: int, told: Latencies, pause_s: float) -> list[str]:
    """Submit one job after the other, again after `Retry-After` where a limit refuses it, and poll each until it ends.
    Returns their ids."""
    ids = []
    video, speech = media()
    files = {"video": ("a.mp4", video), "audio": ("a.wav", speech)}
    for _ in range(jobs):
        answer = await timed(http, told.submit, "POST", "/jobs", files=files, data={"evaluate": "[]"})
        while answer.status_code == 429:
            told.refused[answer.json()["code"]] += 1
            await asyncio.sleep(float(answer.headers["retry-after"]))
            answer = await timed(http, told.submit, "POST", "/jobs", files=files, data={"evaluate": "[]"})
        answer.raise_for_status()
        ids.append(answer.json()["id"])
        while True:
            await asyncio.sleep(pause_s)
            answer = await timed(http, told.get, "GET", f"/jobs/{ids[-1]}")
            if answer.json()["status"] in {"succeeded", "failed", "canceled"}:
                break
    return ids


async def run_clients(url: str, clients: int, jobs: int, pause_s: float) -> tuple[list[str], Latencies]:
    told = Latencies()
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:
        made = await asyncio.gather(*[one_client(http, jobs // clients, told, pause_s) for _ in range(clients)])
    return [job_id for ids in made for job_id in ids], told


def measure_jobs(folder: Path, clients: int, jobs: int, workers: int) -> dict[str, Any]:
    service = LoadedService(folder, workers)
    try:
        with MemoryWatch(service) as memory:
            began, cpu_s = time.perf_counter(), service.api_cpu_s()
            ids, told = asyncio.run(run_clients(service.url, clients, jobs, pause_s=1.0))
            wall_s, cpu_s = time.perf_counter() - began, service.api_cpu_s() - cpu_s
        statuses, duplicated = Counter(), 0
        for job_id in set(ids):
            statuses[service.store.jobs.get(job_id).status.value] += 1
            names = [event.event for event in service.store.jobs.events(job_id, after=None)]
            is_once = names.count("job.started") == 1 and sum(name in TERMINAL for name in names) == 1
            duplicated += not is_once
        third = len(memory.samples_mb) // 3
        return {
            "clients": clients,
            "workers": workers,
            "jobs": len(ids),
            "refused": dict(told.refused),
            "jobs_per_s": round(len(ids) / wall_s, 1),
            "wall_s": round(wall_s, 1),
            "api_cpu_ms_per_job": round(1000 * cpu_s / max(1, len(ids)), 1),
            "submit_ms": percentiles(told.submit),
            "get_ms": percentiles(told.get),
            "lost": jobs // clients * clients - statuses["succeeded"],
            "duplicated": duplicated + len(ids) - len(set(ids)),
            "api_memory_mb": {
                "idle": round(memory.samples_mb[0]),
                "middle third": round(statistics.mean(memory.samples_mb[third : 2 * third])),
                "last third": round(statistics.mean(memory.samples_mb[2 * third :])),
                "peak": round(max(memory.samples_mb)),
            },
        }
    finally:
        service.stop()


def fill_line(store: JobStore, length: int) -> list[str]:
    """Queued jobs, straight into the store from eight threads. Returns their ids.

    One job is over first, so that there is a mean run time, and every view works out an ETA.
    """
    succeed(store, start_job(store))
    source = InputRef(kind="object", key="jobs/1/input/video")
    ids = [new_job_id() for _ in range(length)]

    def fill(part: list[str]) -> None:
        for number, job_id in enumerate(part):
            spec = JobSpec(video=source, audio=source, request=JobRequest(priority=number % 3))
            store.jobs.create(job_id, spec, max_attempts=3)

    threads = [threading.Thread(target=fill, args=(ids[at::8],)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ids


def measure_queue(folder: Path, length: int, calls: int = 3000) -> dict[str, Any]:
    """No worker runs, so the line stays as it is."""
    service = LoadedService(folder, workers=0)
    try:
        began = time.perf_counter()
        ids = fill_line(service.store, length)
        filled_s = time.perf_counter() - began
        seconds: list[float] = []
        positions = []
        cpu_s = service.api_cpu_s()
        with httpx.Client(base_url=service.url) as http:
            for _ in range(calls):
                job_id = ids[secrets.randbelow(length)]
                began = time.perf_counter()
                answer = http.get(f"/jobs/{job_id}")
                seconds.append(time.perf_counter() - began)
                positions.append(answer.json()["queue_position"])
        cpu_s = service.api_cpu_s() - cpu_s
        if not all(1 <= position <= length for position in positions):
            raise RuntimeError("a queue position is missing or out of range")
        return {
            "queue": length,
            "filled_per_s": round(length / filled_s),
            "get_ms": percentiles(seconds),
            "api_cpu_ms_per_get": round(1000 * cpu_s / calls, 2),
        }
    finally:
        service.stop()


def wait_for_jobs(port: int, ids: list[str], count: int, wait_s: int, ready: Any, outcomes: Any) -> None:
    """Runs in a process of its own: `count` connections that wait, one third of them for jobs that end meanwhile."""

    async def wait(number: int) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"GET /v1/jobs/{ids[number % len(ids)]} HTTP/1.1\r\nHost: localhost\r\nPrefer: wait={wait_s}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        head, _, body = answer.decode().partition("\r\n\r\n")
        return json.loads(body)["status"] if head.startswith("HTTP/1.1 200 ") else head.partition("\r\n")[0]

    async def run() -> Counter[str]:
        calls = []
        for number in range(count):
            calls.append(asyncio.create_task(wait(number)))
            if number % 50 == 49:  # callers do not arrive in the same millisecond
                await asyncio.sleep(0.05)
        ready.set()
        return Counter(await asyncio.gather(*calls))

    raise_file_limit()
    outcomes.put(asyncio.run(run()))


def measure_waits(folder: Path, clients: int, wait_s: int = 60) -> dict[str, Any]:
    """Other calls: a plain GET of a job every 20 ms, from before the first wait to after the last."""
    service = LoadedService(folder, workers=0, MAX_CONNECTIONS=str(clients + 500))
    try:
        ids = fill_line(service.store, 300)
        spawn = multiprocessing.get_context("spawn")
        ready, outcomes = spawn.Event(), spawn.Queue()
        process = spawn.Process(
            target=wait_for_jobs, args=(service.port, ids, clients, wait_s, ready, outcomes), daemon=True
        )
        seconds: list[float] = []
        threads, finished = 0, iter(ids[::3])
        cpu_s = service.api_cpu_s()
        with MemoryWatch(service) as memory, httpx.Client(base_url=service.url) as http:
            process.start()
            while process.is_alive():
                began = time.perf_counter()
                http.get(f"/v1/jobs/{ids[1]}").raise_for_status()
                seconds.append(time.perf_counter() - began)
                threads = max(threads, psutil.Process(service.api.pid).num_threads())
                if ready.is_set() and len(seconds) % 10 == 0 and (job_id := next(finished, None)):
                    service.store.jobs.request_cancel(job_id, retention_s=3600)
                time.sleep(0.02)
                if not outcomes.empty():
                    break
            statuses = outcomes.get(timeout=60)
        return {
            "clients": clients,
            "wait_s": wait_s,
            "answers": dict(statuses),
            "other_calls_ms": percentiles(seconds),
            "api_cpu_ms_per_wait": round(1000 * (service.api_cpu_s() - cpu_s) / clients, 2),
            "api_threads": threads,
            "api_memory_mb": {"idle": round(memory.samples_mb[0]), "peak": round(max(memory.samples_mb))},
        }
    finally:
        service.stop()


def raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def upload_body(size: int, boundary: str) -> AsyncIterator[bytes]:
    """A form with a video of `size` bytes, made while it is sent."""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{{0}}"; filename="{{0}}"\r\n\r\n'
    yield head.format("video").encode() + media()[0][:24]
    block, left = bytes(1 << 20), size - 24
    while left > 0:
        yield block[:left]
        left -= len(block)
    yield b"\r\n" + head.format("audio").encode() + media()[1] + f"\r\n--{boundary}--\r\n".encode()


def measure_upload(folder: Path, size: int) -> dict[str, Any]:
    service = LoadedService(folder, workers=0)

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(base_url=service.url, timeout=600) as http:
            kind = {"Content-Type": "multipart/form-data; boundary=bench"}
            return await http.post("/jobs", content=upload_body(size, "bench"), headers=kind)

    try:
        with MemoryWatch(service) as memory:
            began = time.perf_counter()
            answer = asyncio.run(send())
            wall_s = time.perf_counter() - began
        if answer.status_code != 202:
            raise RuntimeError(f"the upload was refused: {answer.text[:300]}")
        return {
            "size_mb": round(size / MB),
            "mb_per_s": round(size / MB / wall_s),
            "api_memory_mb": {"idle": round(memory.samples_mb[0]), "peak": round(max(memory.samples_mb))},
        }
    finally:
        service.stop()


def print_table(name: str, figures: dict[str, Any]) -> None:
    print(f"\n{name}")
    for label, value in figures.items():
        shown = "  ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else value
        print(f"  {label.replace('_', ' '):16} {shown if shown != '' else 'none'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--queue", type=int, default=100_000)
    parser.add_argument("--upload-mb", type=int, default=1000)
    parser.add_argument("--waits", type=int, default=2000)
    parser.add_argument("--only", choices=["jobs", "queue", "upload", "waits"], action="append")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    measurements: dict[str, Callable[[Path], dict[str, Any]]] = {
        "jobs": lambda folder: measure_jobs(folder, asked.clients, asked.jobs, asked.workers),
        "queue": lambda folder: measure_queue(folder, asked.queue),
        "upload": lambda folder: measure_upload(folder, asked.upload_mb * MB),
        "waits": lambda folder: measure_waits(folder, asked.waits),
    }
    figures: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load_before": os.getloadavg()[0]}
    }
    print_table("machine", figures["machine"])
    for name in asked.only or measurements:
        with tempfile.TemporaryDirectory(prefix="retalking-load-") as folder:
            figures[name] = measurements[name](Path(folder))
        print_table(name, figures[name])
        sys.stdout.flush()
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
