"""The service under soak: its API keys, processes that are killed in turn, and samples of memory and queues."""

from __future__ import annotations

import itertools
import os
import random
import resource
import signal
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import httpx
import redis

from cli.keys import make_key
from jobs.names import PRIORITY_STEPS, RENDER_QUEUE
from jobs.opening import connect_redis
from jobs.store.keys import Scope, key_id_of
from tests.faults.service import Service, pid_of
from tests.services import RcloneS3, wait_until

MB = 1_000_000
# Between the name of a queue and a priority, in kombu's Redis transport.
PRIORITY_SEPARATOR = "\x06\x16"
RENDER_QUEUES = [RENDER_QUEUE, *(f"{RENDER_QUEUE}{PRIORITY_SEPARATOR}{step}" for step in PRIORITY_STEPS if step)]
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
    "IDEMPOTENCY_TTL_S": "90",
    "UPLOAD_IDLE_S": "5",
    "MAX_VIDEO_S": "20",
    "MAX_AUDIO_S": "20",
    "WORKER_MEMORY_BYTES": "2000000000",
    "EVENT_STREAMS_PER_KEY": "30",
    "ALLOW_PRIVATE_HOSTS": "127.0.0.1,127.0.0.2",
}
# Killed in turn, in the first and in the second half of the run; of the render workers the first, then the second.
# So each process also lives for half of the run, long enough for its memory to be judged.
FIRST_KILLED = ("render child", "api", "webhooks", "render parent")
THEN_KILLED = ("render child", "redis", "render parent", "s3")
KINDS = tuple(dict.fromkeys((*FIRST_KILLED, *THEN_KILLED)))
BUCKET_EVERY_S = 5.0


@dataclass(frozen=True)
class Key:
    """An API key of the soak. live_jobs, per_minute: its limits."""

    text: str
    live_jobs: int
    per_minute: int

    @property
    def id(self) -> str:
        return str(key_id_of(self.text))

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.text}"}


class SoakedService(Service):
    """rclone: the S3 server; None keeps objects in a local folder, and files are put to links of the API.

    slow, throttled: further hostile keys, so that jobs that wait for their inputs, and a caller over its rate, take no
    room of the hostile key.
    """

    def __init__(self, folder: Path, rclone: RcloneS3 | None, callers: int) -> None:
        s3 = rclone.s3 if rclone else None
        super().__init__(folder, s3, workers=2, render_app="bench.soak_worker", **SETTINGS)
        self.rclone = rclone
        self.kinds = KINDS if rclone else tuple(kind for kind in KINDS if kind != "s3")
        self.keys = [self._make_key(f"caller {number}", 5_000, 60_000) for number in range(callers)]
        self.hostile = self._make_key("hostile", 30, 6_000)
        self.slow = self._make_key("hostile and slow", 8, 6_000)
        self.throttled = self._make_key("hostile and throttled", 8, 60)
        admin = make_key(self.store, "admin", frozenset({Scope.ADMIN}), 60_000)
        self.client.headers.update({"Authorization": f"Bearer {admin}"})

    def _make_key(self, name: str, live_jobs: int, per_minute: int) -> Key:
        scopes = frozenset({Scope.SUBMIT, Scope.READ})
        return Key(make_key(self.store, name, scopes, per_minute, live_jobs), live_jobs, per_minute)

    def _environment(self, settings: dict[str, str]) -> dict[str, str]:
        """Without the proxy that corrupts requests: the endpoint itself is killed."""
        names = os.pathsep.join((str(ROOT / "tests/faults/slow_names"), os.environ.get("PYTHONPATH", ""))).rstrip(":")
        return super()._environment(settings) | (self.s3.env() if self.s3 else {}) | {"PYTHONPATH": names}

    def start(self) -> SoakedService:
        super().start()
        for key in (*self.keys, self.hostile):
            self.hooks.trust(key.id, self.client.get("/webhooks/secret", params={"key_id": key.id}).json()["secret"])
        return self

    def rotate_secret(self, key: Key) -> None:
        """Both secrets sign from now on; the receiver trusts both. Repeated until no kill comes in between."""
        while True:
            try:
                answer = self.client.post("/webhooks/secret/rotate", params={"key_id": key.id})
            except httpx.TransportError:
                time.sleep(0.5)
                continue
            if answer.status_code == 200:
                self.hooks.trust(key.id, answer.json()["secret"])
                return
            time.sleep(0.5)

    def mend(self, timeout_s: float = 90.0) -> None:
        if self.rclone:
            self.rclone.revive()
        super().mend(timeout_s)

    @property
    def bucket_folder(self) -> Path:
        return self.rclone.files if self.rclone else self.settings.data_dir / "objects"

    def pids(self) -> dict[str, list[int]]:
        """Kind -> processes that run now."""
        parents = [worker for worker in self.workers if worker is not None and worker.is_alive]
        return {
            "api": [self.api.pid] if self.api else [],
            "webhooks": [self.webhooks.pid] if self.webhooks else [],
            "render parent": [parent.pid for parent in parents],
            "render child": [child for parent in parents for child in parent.children],
            "redis": [self.redis.pid],
            "s3": [self.rclone.pid] if self.rclone else [],
        }

    def kill(self, kind: str, worker: int) -> str | None:
        """SIGKILL to one process. worker: index of the render worker that is hit. Returns the job that a render child
        was working on."""
        if kind == "s3":
            self.rclone.kill()
            return None
        if kind.startswith("render"):
            parent = self.workers[worker]
            pids = parent.children if kind == "render child" else [parent.pid]
        else:
            pids = self.pids()[kind]
        busy = {pid_of(card.id): card.busy_with for card in self.store.workers.live()} if kind == "render child" else {}
        for pid in pids[:1]:
            os.kill(pid, signal.SIGKILL)
        return next((busy.get(pid) for pid in pids), None)

    def revive(self, kind: str) -> None:
        """Until the process that was killed serves again; a render process is not waited for."""
        if kind == "redis":
            self.redis.revive()
        elif kind == "s3":
            self.rclone.revive()
        elif kind == "api":
            wait_until(lambda: not self.api.is_alive, 10)
            self.start_api()
            wait_until(self._api_answers, 60, 0.05, "the API answers")

    def _api_answers(self) -> bool:
        try:
            return self.client.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False


@dataclass(frozen=True)
class Kill:
    """began, back: by time.monotonic(); back when the process served again. at: by time.time(). job_id: what a render
    child was working on."""

    kind: str
    began: float
    back: float
    at: float
    job_id: str | None


class Killer:
    """Kills one process about every `every_s`, kind after kind, and restarts it. half_s: of the run."""

    def __init__(self, service: SoakedService, every_s: float, half_s: float, chance: random.Random) -> None:
        self._service, self._every_s, self._half_s, self._chance = service, every_s, half_s, chance
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="killer", daemon=True)
        self.kills: list[Kill] = []
        self.failures: list[str] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        start = next_at = time.monotonic()
        for number in itertools.count():
            next_at = max(time.monotonic(), next_at + self._every_s * self._chance.uniform(0.8, 1.2))
            if self._over.wait(next_at - time.monotonic()):
                return
            is_second_half = time.monotonic() - start > self._half_s
            kinds = [kind for kind in (FIRST_KILLED, THEN_KILLED)[is_second_half] if kind in self._service.kinds]
            kind = kinds[number % len(kinds)]
            began, at = time.monotonic(), time.time()
            back = began
            try:
                job_id = self._service.kill(kind, worker=int(is_second_half))
                self._over.wait(1.0)
                self._service.revive(kind)
                back = time.monotonic()
                self.kills.append(Kill(kind, began, back, at, job_id))
                self._service.mend()
            except Exception as fault:
                self.failures.append(f"the service did not come back after its {kind} was killed: {fault!r:.300}")


Points = list[tuple[float, float]]


class Watch:
    """Samples once a second: memory of every process, data in Redis, the bucket, and queues.

    memory: kind -> process id -> (age of the process in seconds, MB). All else: (seconds since the start, value).
    redis_data: (jobs in the store, MB). bucket: (jobs in the store, MB).
    """

    def __init__(self, service: SoakedService) -> None:
        self._service = service
        self._redis = connect_redis(service.redis.url, retries=0, timeout_s=2.0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._born: dict[int, float] = {}
        self._bucket_at = 0.0
        self.memory: dict[str, dict[int, Points]] = {kind: defaultdict(list) for kind in service.kinds}
        self.redis_data: Points = []
        self.bucket: Points = []
        self.queues: dict[str, Points] = {"render messages": [], "webhook events": [], "live jobs": []}
        self.length_s = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self._redis.close()

    def _run(self) -> None:
        start = time.monotonic()
        while not self._over.wait(1.0):
            self.length_s = time.monotonic() - start
            for kind, pids in self._service.pids().items():
                for pid in pids:
                    self._look(kind, pid)
            try:
                self._ask_redis()
            except redis.RedisError:
                continue  # it was killed a moment ago

    def _look(self, kind: str, pid: int) -> None:
        age_s = time.monotonic() - self._born.setdefault(pid, time.monotonic())
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return
        if pages:  # none: a process that has ended and is not collected yet
            self.memory[kind][pid].append((age_s, pages * resource.getpagesize() / MB))

    def _ask_redis(self) -> None:
        owners = [key.id for key in self._service.keys]
        with self._redis.pipeline(transaction=False) as pipe:
            for name in RENDER_QUEUES:
                pipe.llen(name)
            for owner in owners:
                pipe.zcard(f"{{retalking}}:deliveries:pending:{owner}")
            for owner in owners:
                pipe.scard(f"{{retalking}}:live:{owner}")
            pipe.zcard("{retalking}:created")
            pipe.info("memory")
            *lengths, jobs, info = pipe.execute()
        lines, pending, live = len(RENDER_QUEUES), len(owners), len(owners)
        parts = (lengths[:lines], lengths[lines : lines + pending], lengths[-live:])
        for points, part in zip(self.queues.values(), parts, strict=True):
            points.append((self.length_s, float(sum(part))))
        self.redis_data.append((jobs, info["used_memory"] / MB))
        if self.length_s > self._bucket_at:
            self._bucket_at = self.length_s + BUCKET_EVERY_S
            self.bucket.append((jobs, folder_bytes(self._service.bucket_folder) / MB))


def folder_bytes(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(where, name)).st_size
            except FileNotFoundError:
                continue
    return total
