"""How long healthy receivers wait while others are silent: `python -m bench.webhooks [--json FILE]`, about two minutes.

Real parts: Redis, the API, render workers whose engine only copies, a webhook worker, receivers on loopback. Every
second job names one of the silent receivers, which take a request and never answer; the others share the healthy ones.
Measured for each event that arrives at a healthy receiver: from its timestamp (the transition in the store) to its
arrival. Once a second: events pending for healthy receivers, events due that nobody sends yet, messages in the broker.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from bench.load import media, percentiles
from bench.loaded_service import LoadedService
from jobs.opening import connect_redis

EVENTS = json.dumps(["job.started", "job.progress", "job.succeeded"])
GOAL_S = 2.0
# After the last job is over: silent receivers are still tried, healthy ones must have heard everything.
SETTLE_S = 30.0


@dataclass
class Receivers:
    """Asyncio servers in a thread. latencies_s: of each event at a healthy receiver; job_ids: whose last event came."""

    healthy: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    job_ids: set[str] = field(default_factory=set)
    silent_requests: int = 0

    async def open(self, healthy: int, silent: int) -> None:
        for urls, count, serve in ((self.healthy, healthy, self._answer), (self.silent, silent, self._be_silent)):
            for _ in range(count):
                server = await asyncio.start_server(serve, "127.0.0.1", 0)
                urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook")

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        event = json.loads(await reader.readexactly(int(fields[b"content-length"])))
        self.latencies_s.append((datetime.now(UTC) - datetime.fromisoformat(event["timestamp"])).total_seconds())
        if event["type"] == "job.succeeded":
            self.job_ids.add(event["data"]["id"])
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async def _be_silent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.silent_requests += 1
        await reader.read()  # until the sender gives up
        writer.close()


@contextmanager
def receiving(healthy: int, silent: int) -> Iterator[Receivers]:
    loop, receivers = asyncio.new_event_loop(), Receivers()
    loop.run_until_complete(receivers.open(healthy, silent))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield receivers
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def submit_all(url: str, hooks: list[str], clients: int) -> list[str]:
    """One job for each address. Returns their ids in that order."""
    ids, numbers = [""] * len(hooks), iter(range(len(hooks)))

    async def one_client(http: httpx.AsyncClient) -> None:
        for number in numbers:
            video, speech = media()
            files = {"video": ("a.mp4", video), "audio": ("a.wav", speech)}
            data = {"evaluate": "[]", "webhook_url": hooks[number], "webhook_events": EVENTS}
            answer = await http.post("/jobs", files=files, data=data)
            answer.raise_for_status()
            ids[number] = answer.json()["id"]

    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        await asyncio.gather(*[one_client(http) for _ in range(clients)])
    return ids


class QueueWatch:
    """Once a second: what waits for delivery."""

    def __init__(self, service: LoadedService, receivers: Receivers) -> None:
        self._store = service.store
        self._redis = connect_redis(service.redis.url)
        self._healthy = [f"{{retalking}}:webhook_queue:@{url.split('/')[2]}" for url in receivers.healthy]
        self.samples: list[dict[str, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> QueueWatch:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            with self._redis.pipeline(transaction=False) as pipe:
                for queue in self._healthy:
                    pipe.zcard(queue)
                pipe.llen("retalking.webhooks")  # where earlier versions had their messages
                *healthy, messages = pipe.execute()
            backlog = self._store.webhooks.backlog()
            at_s = round(time.monotonic() - self._began, 1)
            self.samples.append(
                {
                    "at_s": at_s,
                    "healthy_pending": sum(healthy),
                    "due": backlog.due,
                    "pending": backlog.pending,
                    "messages": messages,
                }
            )


def measure(folder: Path, jobs: int, silent: int, healthy: int, workers: int) -> dict[str, Any]:
    with receiving(healthy, silent) as receivers:
        service = LoadedService(folder, workers, ALLOW_PRIVATE_HOSTS="127.0.0.1")
        try:
            hooks = [
                receivers.silent[number // 2 % silent] if number % 2 else receivers.healthy[number // 2 % healthy]
                for number in range(jobs)
            ]
            with QueueWatch(service, receivers) as queue:
                began = time.monotonic()
                ids = asyncio.run(submit_all(service.url, hooks, clients=20))
                wanted = set(ids[::2])
                while time.monotonic() - began < 240 and not all(
                    service.store.jobs.get(each).status.is_over for each in ids
                ):
                    time.sleep(0.5)
                rendered_s = time.monotonic() - began
                time.sleep(SETTLE_S)
            lost = len(wanted - receivers.job_ids)
        finally:
            service.stop()
    return {
        "jobs": jobs,
        "silent_receivers": silent,
        "healthy_receivers": healthy,
        "jobs_over_after_s": round(rendered_s, 1),
        "events_at_healthy": len(receivers.latencies_s),
        "requests_to_silent": receivers.silent_requests,
        "missing_at_healthy": lost,
        "latency_ms": percentiles(receivers.latencies_s),
        "queue": queue.samples,
    }


def print_table(figures: dict[str, Any]) -> None:
    latency = figures["latency_ms"]
    print(f"{figures['jobs']} jobs over after {figures['jobs_over_after_s']} s; {figures['silent_receivers']} silent")
    print(
        f"events at healthy receivers   {figures['events_at_healthy']}, {figures['missing_at_healthy']} jobs unheard of"
    )
    print(f"requests to silent receivers  {figures['requests_to_silent']}")
    print(
        "from transition to arrival    "
        + ", ".join(f"{name} {latency[name]} ms" for name in ("p50", "p95", "p99", "max"))
    )
    print(" at_s  pending for healthy  due  pending in all  messages")
    for row in figures["queue"]:
        print(f"{row['at_s']:5}  {row['healthy_pending']:19}  {row['due']:3}  {row['pending']:14}  {row['messages']:8}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--silent", type=int, default=20)
    parser.add_argument("--healthy", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="retalking-webhooks-") as folder:
        figures = measure(Path(folder), asked.jobs, asked.silent, asked.healthy, asked.workers)
    print_table(figures)
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1) + "\n")
    missed = figures["latency_ms"]["p99"] > 1000 * GOAL_S or figures["missing_at_healthy"]
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
