"""The service that a soak runs against: API keys, processes that are killed in turn, and their memory meanwhile."""

from __future__ import annotations

import itertools
import os
import random
import resource
import signal
import statistics
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import redis

from cli.keys import make_key
from jobs.names import PRIORITY_STEPS, RENDER_QUEUE
from jobs.opening import connect_redis
from jobs.store.keys import Scope
from tests.faults.service import Service
from tests.services import RcloneS3

MB = 1_000_000
# Between the name of a queue and a priority, in kombu's Redis transport.
PRIORITY_SEPARATOR = "\x06\x16"
ROOT = Path(__file__).resolve().parents[1]
UPLOAD_TTL_S = 60
SETTINGS = {
    "REQUIRE_KEYS": "true",
    # On two cores that everything shares, a lease of 2 s would be lost to a busy processor.
    "LEASE_S": "5",
    "WORKER_TTL_S": "8",
    "MAX_ATTEMPTS": "5",
    "JANITOR_INTERVAL_S": "0.5",
    "UPLOAD_TTL_S": str(UPLOAD_TTL_S),
    "UPLOAD_IDLE_S": "5",
    "MAX_VIDEO_S": "20",
    "MAX_AUDIO_S": "20",
    "WORKER_MEMORY_BYTES": "2000000000",
    "ALLOW_PRIVATE_HOSTS": "127.0.0.1,127.0.0.2",
}
# In the order in which they are killed.
KINDS = ("render child", "api", "webhooks", "render parent", "redis", "s3")
# What a kill may still explain after everything is up again: connections in pools, retries that pause.
AFTERMATH_S = 10.0
# Younger processes still load what they need.
GROWN_UP_S = 15.0
# Of a kind of process, in the last third of the run against the middle one.
FLAT_RATIO, FLAT_MARGIN_MB = 1.2, 30.0


class SoakedService(Service):
    """Without the proxy that spoils requests: here the endpoint itself is killed."""

    def __init__(self, folder: Path, rclone: RcloneS3, callers: int) -> None:
        super().__init__(folder, rclone.s3, workers=2, render_app="bench.soak_worker", **SETTINGS)
        self.rclone = rclone
        usual = frozenset({Scope.SUBMIT, Scope.READ})
        self.keys = [make_key(self.store, f"caller {number}", usual, 60_000, 5_000) for number in range(callers)]
        self.hostile_key = make_key(self.store, "hostile", usual, 6_000, 30)
        # Of its own, so that jobs that wait for their inputs leave room for all other hostile jobs.
        self.slow_key = make_key(self.store, "hostile and slow", usual, 6_000, 8)
        self.client.headers.update(bearer(make_key(self.store, "admin", frozenset({Scope.ADMIN}), 60_000)))

    def _environment(self, settings: dict[str, str]) -> dict[str, str]:
        names = os.pathsep.join((str(ROOT / "tests/faults/slow_names"), os.environ.get("PYTHONPATH", ""))).rstrip(":")
        return super()._environment(settings) | self.s3.env() | {"PYTHONPATH": names}

    def mend(self, timeout_s: float = 90.0) -> None:
        self.rclone.revive()
        super().mend(timeout_s)

    def pids(self) -> dict[str, list[int]]:
        """Kind -> processes that run now."""
        parents = [worker for worker in self.workers if worker is not None and worker.is_alive]
        return {
            "api": [self.api.pid] if self.api else [],
            "webhooks": [self.webhooks.pid] if self.webhooks else [],
            "render parent": [parent.pid for parent in parents],
            "render child": [child for parent in parents for child in parent.children],
            "redis": [self.redis.pid],
            "s3": [self.rclone.pid],
        }

    def kill(self, kind: str, chance: random.Random) -> None:
        """SIGKILL to one process of a kind; nothing else is told."""
        if kind == "s3":
            self.rclone.kill()
            return
        pids = self.pids()[kind]
        if pids:
            os.kill(chance.choice(pids), signal.SIGKILL)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@dataclass(frozen=True)
class Kill:
    """began, ended: by time.monotonic(); ended when everything was ready again."""

    kind: str
    began: float
    ended: float


class Killer:
    """Kills one process every `every_s`, kind after kind, and brings back what is gone."""

    def __init__(self, service: SoakedService, every_s: float, chance: random.Random) -> None:
        self._service, self._every_s, self._chance = service, every_s, chance
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="killer", daemon=True)
        self.kills: list[Kill] = []
        self.failures: list[str] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def explains(self, began: float, ended: float) -> bool:
        """Whether a kill may be the reason for what failed in this time."""
        return any(kill.began <= ended and began <= kill.ended + AFTERMATH_S for kill in self.kills)

    def _run(self) -> None:
        for kind in itertools.cycle(KINDS):
            if self._over.wait(self._every_s):
                return
            began = time.monotonic()
            self._service.kill(kind, self._chance)
            self._over.wait(1.0)
            try:
                self._service.mend()
            except Exception as fault:
                self.failures.append(f"the service did not come back after its {kind} was killed: {str(fault)[:300]}")
            self.kills.append(Kill(kind, began, time.monotonic()))


@dataclass
class Samples:
    """Of one kind of process: (seconds since the start, MB of one process)."""

    points: list[tuple[float, float]] = field(default_factory=list)

    def third(self, number: int, length_s: float) -> float | None:
        """Median MB in a third of the run; None where no process was old enough."""
        found = [mb for at, mb in self.points if number * length_s / 3 <= at < (number + 1) * length_s / 3]
        return statistics.median(found) if found else None


class Watch:
    """Looks at memory and queues once a second."""

    def __init__(self, service: SoakedService) -> None:
        self._service = service
        self._redis = connect_redis(service.redis.url)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._began = time.monotonic()
        self._seen: dict[int, float] = {}
        self.memory: dict[str, Samples] = {kind: Samples() for kind in KINDS}
        self.redis_data, self.render_queue, self.webhook_queue = Samples(), Samples(), Samples()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self._redis.close()

    @property
    def length_s(self) -> float:
        return max(at for samples in self.memory.values() for at, _ in samples.points or [(0.0, 0.0)]) + 1e-9

    def grown(self) -> list[str]:
        """Kinds whose memory was not flat."""
        found = []
        for kind, samples in self.memory.items():
            middle, last = samples.third(1, self.length_s), samples.third(2, self.length_s)
            if middle and last and kind not in {"s3", "redis"} and last > FLAT_RATIO * middle + FLAT_MARGIN_MB:
                found.append(f"memory of the {kind} grew from {middle:.0f} to {last:.0f} MB")
        return found

    def figures(self) -> dict[str, dict[str, float | None]]:
        everything = {f"{kind} MB": samples for kind, samples in self.memory.items()} | {
            "redis data MB": self.redis_data,
            "render messages": self.render_queue,
            "webhook events pending": self.webhook_queue,
        }
        return {name: self._thirds(samples) for name, samples in everything.items()}

    def _thirds(self, samples: Samples) -> dict[str, float | None]:
        medians = [samples.third(number, self.length_s) for number in range(3)]
        rounded = [None if value is None else round(value, 1) for value in medians]
        peak = round(max((value for _, value in samples.points), default=0.0), 1)
        return dict(zip(("first", "middle", "last"), rounded, strict=True)) | {"peak": peak}

    def _run(self) -> None:
        while not self._over.wait(1.0):
            at = time.monotonic() - self._began
            for kind, pids in self._service.pids().items():
                for pid in pids:
                    self._look(kind, pid, at)
            try:
                self._ask_redis(at)
            except redis.RedisError:
                continue  # it was killed a moment ago

    def _look(self, kind: str, pid: int, at: float) -> None:
        if at - self._seen.setdefault(pid, at) < GROWN_UP_S:
            return
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return
        if pages:  # none: a process that has ended and is not collected yet
            self.memory[kind].points.append((at, pages * resource.getpagesize() / MB))

    def _ask_redis(self, at: float) -> None:
        self.redis_data.points.append((at, self._redis.info("memory")["used_memory"] / MB))
        names = [RENDER_QUEUE, *(f"{RENDER_QUEUE}{PRIORITY_SEPARATOR}{step}" for step in PRIORITY_STEPS if step)]
        self.render_queue.points.append((at, float(sum(self._redis.llen(name) for name in names))))
        self.webhook_queue.points.append((at, float(self._redis.zcard("{retalking}:webhooks_due"))))
