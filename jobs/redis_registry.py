"""Files and uploads that wait for a job, workers that are alive, and named locks."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import redis

from jobs.models import WorkerInfo
from jobs.redis_quarantine import Quarantine
from jobs.redis_records import stored_json
from jobs.store import ArrivalLostError, ByteQuota, JanitorLine

MAX_WORKERS = 1000
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})


class Registry(Quarantine):
    def add_arrival(self, job_id: str, within_s: float) -> None:
        self._client.zadd(self._key("arrivals"), {job_id: self._now_ms() + int(within_s * 1000)})

    def renew_arrival(self, job_id: str, within_s: float) -> bool:
        return self._call("renew_arrival", job_id, int(within_s * 1000)) is not None

    def reserve(self, job_id: str, size_bytes: int, quota: ByteQuota) -> None:
        whose = (quota.owner, quota.of_owner, quota.of_all)
        if self._call("reserve", job_id, size_bytes, *whose, "arrivals") is None:
            raise ArrivalLostError(f"{job_id} was given up while its files arrived")

    def stored_bytes(self, owner: str | None = None) -> int:
        return int(self._client.hget(self._key("stored"), "all" if owner is None else owner) or 0)

    def expired_arrivals(self, limit: int = 100) -> list[str]:
        return self._due("arrivals", limit)

    def drop_arrival(self, job_id: str) -> None:
        self._call("drop_arrival", job_id)

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

    def keep_upload(self, upload_id: str, at_least_s: float, owner: str | None = None) -> str | None:
        reply = self._call("keep_upload", upload_id, "*" if owner is None else owner, int(at_least_s * 1000))
        return None if reply is None else reply[0]

    def settle_upload(self, upload_id: str, arrival: str, size_bytes: int, at_least_s: float) -> bool:
        return self._call("settle_upload", upload_id, arrival, size_bytes, int(at_least_s * 1000)) is not None

    def await_upload(self, upload_id: str, link_ends_at: datetime, most_bytes: int, quota: ByteQuota) -> None:
        self._call("reserve", upload_id, most_bytes, quota.owner, quota.of_owner, quota.of_all, "")
        with self._client.pipeline() as pipe:
            pipe.hset(self._key("link_ends"), upload_id, int(link_ends_at.timestamp() * 1000))
            pipe.zadd(self._key("unmeasured"), {upload_id: self._now_ms()})
            pipe.execute()

    def unmeasured_uploads(self, limit: int = 100) -> list[str]:
        return self._due("unmeasured", limit)

    def measure_upload(self, upload_id: str, size_bytes: int | None, again_s: float) -> None:
        self._call("measure_upload", upload_id, "" if size_bytes is None else size_bytes, int(again_s * 1000))

    def take_upload(self, upload_id: str) -> None:
        """From now on it never expires by itself; drop_upload forgets it."""
        self._client.zadd(self._key("uploads"), {upload_id: "+inf"}, xx=True)

    def expired_uploads(self, limit: int = 100) -> list[str]:
        return self._due("uploads", limit)

    def drop_upload(self, upload_id: str) -> None:
        self._call("drop_upload", upload_id)

    def report_worker(self, worker: WorkerInfo, ttl_s: float) -> None:
        ttl_ms = int(ttl_s * 1000)
        with self._client.pipeline() as pipe:
            pipe.set(self._key("worker", worker.id), stored_json(worker), px=ttl_ms)
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
        return self._read_records("worker", ids, WorkerInfo)

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

    def data_folder(self) -> Path | None:
        if self._client.connection_pool.connection_kwargs.get("host", "localhost") not in _THIS_MACHINE:
            return None
        try:
            folder = Path(self._client.config_get("dir")["dir"])
        except (redis.RedisError, KeyError):
            return None
        return folder if folder.is_dir() else None

    def ping(self) -> None:
        self._client.ping()
