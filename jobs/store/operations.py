"""What operates the service: live workers, locks, failures of the janitor, and counters for /metrics."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from itertools import islice
from typing import cast

from jobs.models import WorkerInfo
from jobs.store.base import RedisBase
from jobs.store.quarantine import Quarantine
from jobs.store.records import stored_json
from jobs.store.types import Durations, JanitorQueue, Tally

MAX_WORKERS = 1000
# As in jobs/lua/prelude.lua, where the last bucket is `inf`
BOUNDS_S = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_BUCKETS = [*(f"{bound:g}" for bound in BOUNDS_S), "inf"]


class Workers:
    """Registry of render workers, kept up to date by their heartbeats."""

    def __init__(self, base: RedisBase, quarantine: Quarantine) -> None:
        self._redis, self._quarantine = base, quarantine

    def report(self, worker: WorkerInfo, ttl_s: float) -> None:
        ttl_ms = int(ttl_s * 1000)
        with self._redis.client.pipeline() as pipe:
            pipe.set(self._redis.key("worker", worker.id), stored_json(worker), px=ttl_ms)
            pipe.zadd(self._redis.key("workers"), {worker.id: self._redis.now_ms() + ttl_ms})
            pipe.execute()

    def forget(self, worker_id: str) -> None:
        with self._redis.client.pipeline() as pipe:
            pipe.delete(self._redis.key("worker", worker_id))
            pipe.zrem(self._redis.key("workers"), worker_id)
            pipe.execute()

    def live(self) -> list[WorkerInfo]:
        """Workers whose last report is younger than the ttl it named, ordered by id."""
        registry = self._redis.key("workers")
        self._redis.client.zremrangebyscore(registry, "-inf", self._redis.now_ms())
        ids = sorted(str(worker_id) for worker_id in self._redis.client.zrange(registry, 0, MAX_WORKERS - 1))
        return self._quarantine.read_records("worker", ids, WorkerInfo)


class Locks:
    """Named locks that expire."""

    def __init__(self, base: RedisBase) -> None:
        self._redis = base

    def acquire(self, name: str, owner: str, ttl_s: float) -> bool:
        """Re-entrant for the same owner, which renews the lock."""
        (taken,) = self._redis.call("lock", name, owner, int(ttl_s * 1000))
        return bool(taken == "1")

    def release(self, name: str, owner: str) -> None:
        """Does nothing if the lock has expired or belongs to another owner."""
        self._redis.call("unlock", name, owner)


class JanitorFailures:
    """Items that the janitor could not process, with exponential backoff."""

    def __init__(self, base: RedisBase) -> None:
        self._redis = base

    def postpone(self, queue: JanitorQueue, item: str, *, first_s: float, longest_s: float) -> float | None:
        """Make a failed item due again after first_s, doubled at each further failure, up to longest_s. Returns the
        pause in seconds; None: the item is gone."""
        reply = self._redis.call_optional("postpone", queue, item, int(first_s * 1000), int(longest_s * 1000))
        return None if reply is None else int(reply[1]) / 1000

    def clear(self, queue: JanitorQueue, item: str) -> None:
        """Forget the failures of an item."""
        self._redis.client.hdel(self._redis.key("janitor_failures"), f"{queue}:{item}")

    def items(self, limit: int = 100) -> dict[str, int]:
        """Some of the failed items: `queue:item` -> number of failures."""
        _, found = self._redis.client.hscan(self._redis.key("janitor_failures"), count=limit)
        pairs = cast("dict[str, str]", found).items()
        return {name: int(failures) for name, failures in islice(pairs, limit)}

    def count(self) -> int:
        return self._redis.client.hlen(self._redis.key("janitor_failures"))


class Counters:
    """Written by the Lua scripts: one hash of numbers that only grow."""

    def __init__(self, base: RedisBase) -> None:
        self._redis = base

    def tally(self) -> Tally:
        """All counters, over all processes."""
        counts: dict[str, dict[str, int]] = defaultdict(dict)
        series: dict[str, dict[str, int]] = defaultdict(dict)
        for field, value in self._redis.fields(self._redis.key("counters")).items():
            if not value.lstrip("-").isdecimal():  # not written by our scripts; the other counts are valid without it
                continue
            name, bar, bucket = field.partition("|")
            if bar:
                series[name][bucket] = int(value)
            else:
                kind, _, label = name.partition(":")
                counts[kind][label] = int(value)
        durations: dict[str, dict[str, Durations]] = defaultdict(dict)
        for name, buckets in series.items():
            kind, _, label = name.partition(":")
            durations[kind][label] = _durations(buckets)
        return Tally(dict(counts), dict(durations))


def _durations(counts: Mapping[str, int]) -> Durations:
    """Counts per bucket -> cumulative counts, as Prometheus histograms have them."""
    total, buckets = 0, []
    for bound, bucket in zip((*BOUNDS_S, math.inf), _BUCKETS, strict=True):
        total += counts.get(bucket, 0)
        buckets.append((bound, total))
    return Durations(tuple(buckets), counts.get("sum_ms", 0) / 1000)
