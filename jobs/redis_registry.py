"""Files and uploads that wait for a job, workers that are alive, and named locks."""

from __future__ import annotations

from datetime import datetime

from jobs.models import WorkerInfo
from jobs.redis_base import RedisPart
from jobs.store import JanitorLine

MAX_WORKERS = 1000


class Registry(RedisPart):
    def add_arrival(self, job_id: str, within_s: float) -> None:
        self._client.zadd(self._key("arrivals"), {job_id: self._now_ms() + int(within_s * 1000)})

    def expired_arrivals(self, limit: int = 100) -> list[str]:
        return self._due("arrivals", limit)

    def drop_arrival(self, job_id: str) -> None:
        self._client.zrem(self._key("arrivals"), job_id)

    def add_upload(self, upload_id: str, expires_at: datetime, owner: str = "") -> None:
        with self._client.pipeline() as pipe:
            pipe.zadd(self._key("uploads"), {upload_id: int(expires_at.timestamp() * 1000)})
            if owner:
                pipe.hset(self._key("upload_owners"), upload_id, owner)
            pipe.execute()

    def upload_exists(self, upload_id: str, owner: str | None = None) -> bool:
        if self._client.zscore(self._key("uploads"), upload_id) is None:
            return False
        return owner is None or (self._client.hget(self._key("upload_owners"), upload_id) or "") == owner

    def take_upload(self, upload_id: str) -> None:
        """From now on it never expires by itself; drop_upload forgets it."""
        self._client.zadd(self._key("uploads"), {upload_id: "+inf"}, xx=True)

    def expired_uploads(self, limit: int = 100) -> list[str]:
        return self._due("uploads", limit)

    def drop_upload(self, upload_id: str) -> None:
        with self._client.pipeline() as pipe:
            pipe.zrem(self._key("uploads"), upload_id)
            pipe.hdel(self._key("upload_owners"), upload_id)
            pipe.execute()

    def report_worker(self, worker: WorkerInfo, ttl_s: float) -> None:
        ttl_ms = int(ttl_s * 1000)
        with self._client.pipeline() as pipe:
            pipe.set(self._key("worker", worker.id), worker.model_dump_json(), px=ttl_ms)
            pipe.zadd(self._key("workers"), {worker.id: self._now_ms() + ttl_ms})
            pipe.execute()

    def forget_worker(self, worker_id: str) -> None:
        with self._client.pipeline() as pipe:
            pipe.delete(self._key("worker", worker_id))
            pipe.zrem(self._key("workers"), worker_id)
            pipe.execute()

    def workers(self) -> list[WorkerInfo]:
        """Those whose last report is younger than the ttl it named; ordered by id."""
        line = self._key("workers")
        now_ms = self._now_ms()
        self._client.zremrangebyscore(line, "-inf", now_ms)
        ids = sorted(self._client.zrange(line, 0, MAX_WORKERS - 1))
        records = self._client.mget([self._key("worker", worker_id) for worker_id in ids]) if ids else []
        return [WorkerInfo.model_validate_json(record) for record in records if record]

    def postpone(self, line: JanitorLine, item: str, *, first_s: float, longest_s: float) -> float | None:
        pauses_ms = (int(first_s * 1000), int(longest_s * 1000))
        reply = self._call("postpone", line, item, *pauses_ms)
        return None if reply is None else int(reply[1]) / 1000

    def item_done(self, line: JanitorLine, item: str) -> None:
        self._client.hdel(self._key("janitor_failures"), f"{line}:{item}")

    def failing_items(self, limit: int = 100) -> dict[str, int]:
        _, found = self._client.hscan(self._key("janitor_failures"), count=limit)
        return {name: int(failures) for name, failures in list(found.items())[:limit]}

    def failing_count(self) -> int:
        return self._client.hlen(self._key("janitor_failures"))

    def acquire_lock(self, name: str, owner: str, ttl_s: float) -> bool:
        (taken,) = self._call("lock", name, owner, int(ttl_s * 1000))
        return taken == "1"

    def release_lock(self, name: str, owner: str) -> None:
        self._call("unlock", name, owner)

    def ping(self) -> None:
        self._client.ping()
