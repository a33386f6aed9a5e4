"""Batches: many jobs in one request, whose items become ordinary jobs one after the other (worker/batches.py).

The jobs of a batch are counted by status in the step in which that changes (jobs/lua/prelude.lua); the last one that
ends also ends the batch and creates the delivery of its event.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, cast

from jobs.egress import receiver_of
from jobs.errors import ERROR_CODES
from jobs.models import Batch, BatchFailure, ErrorInfo, JobSpec
from jobs.store.base import RedisBase
from jobs.store.jobs import CURSOR, idempotency_name
from jobs.store.records import UNREADABLE, batch_of, pairs, read_json, stored_json
from jobs.store.types import (
    BatchNotFoundError,
    BatchPage,
    CreatedBatch,
    IdempotencyKey,
    JobNotFoundError,
    Origin,
    RecordUnreadableError,
)

# Items are stored in steps of so many, before the batch: no step keeps Redis busy for long.
ITEMS_PER_STEP = 50
# Items whose batch was never created are deleted by Redis after this.
ITEMS_TTL_S = 600
_UNREADABLE = ErrorInfo(
    code="record_unreadable",
    message="The record of this job was lost or cannot be read.",
    retryable=ERROR_CODES["record_unreadable"].retryable,
).model_dump_json()


class Batches:
    """retention_s: how long a batch is kept after its end."""

    def __init__(self, base: RedisBase, retention_s: int) -> None:
        self._redis, self._retention_s = base, retention_s

    def create(
        self,
        batch_id: str,
        specs: Sequence[JobSpec],
        *,
        origin: Origin,
        most_waiting: int,
        webhook_url: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        idempotency: IdempotencyKey | None = None,
    ) -> CreatedBatch:
        """Store an open batch; none of its items is a job yet.

        specs: `batch` names the place of each; files that are still in an upload have no key. most_waiting: items of
        the owner that may wait to become jobs. idempotency: as for jobs.create(), and independent of the keys of jobs.

        Raises QuotaExceededError, IdempotencyConflictError, RecordNotStorableError; ArrivalLostError if storing took
        so long that items expired.
        """
        self._store_items(batch_id, [stored_json(spec) for spec in specs])
        memory = (
            (
                idempotency_name(f"batch {idempotency.key}", origin.owner),
                idempotency.fingerprint,
                idempotency.ttl_s * 1000,
            )
            if idempotency
            else ("", "", "")
        )
        is_new, fields = self._redis.call(
            "create_batch",
            batch_id,
            len(specs),
            origin.owner,
            origin.request_id,
            origin.traceparent,
            json.dumps(metadata or {}),
            webhook_url or "",
            f"{origin.owner}@{receiver_of(webhook_url)}" if webhook_url else "",
            self._retention_s * 1000,
            *memory,
            most_waiting,
        )
        if is_new != "1":
            self._redis.client.delete(self._redis.key("batch_items", batch_id))
        return CreatedBatch(batch_of(pairs(fields)), is_new == "1")

    def _store_items(self, batch_id: str, texts: Sequence[str]) -> None:
        """Each step replaces what it wrote before, so that a repeated one changes nothing."""
        items = self._redis.key("batch_items", batch_id)
        for start in range(0, len(texts), ITEMS_PER_STEP):
            with self._redis.client.pipeline() as pipe:
                pipe.ltrim(items, 0, start - 1) if start else pipe.delete(items)
                pipe.rpush(items, *texts[start : start + ITEMS_PER_STEP])
                pipe.expire(items, ITEMS_TTL_S)
                pipe.execute()

    def get(self, batch_id: str) -> Batch:
        """Raises BatchNotFoundError, RecordUnreadableError."""
        fields = self._redis.fields(self._redis.key("batch", batch_id))
        if not fields:
            raise BatchNotFoundError(f"There is no {batch_id}")
        try:
            return batch_of(fields)
        except UNREADABLE as fault:
            raise RecordUnreadableError(batch_id, fields.get("owner", "")) from fault

    def page(self, *, cursor: str | None, limit: int, owner: str | None = None) -> BatchPage:
        """Newest first by creation number, so that a page stays the same while batches are added. owner None: of all
        owners. Records that cannot be read are left out. Raises ValueError for a cursor that no page returned."""
        if cursor is not None and not CURSOR.fullmatch(cursor):
            raise ValueError("The cursor was not returned by a page; start again without it")
        highest = "+inf" if cursor is None else f"({cursor[1:]}"
        found = self._redis.client.zrevrangebyscore(
            self._redis.key("batches", owner), highest, "-inf", start=0, num=limit + 1, withscores=True
        )
        rows = cast("list[tuple[str, float]]", found)
        batches = []
        for batch_id, _ in rows[:limit]:
            with suppress(BatchNotFoundError, RecordUnreadableError):  # the first: deleted meanwhile
                batches.append(self.get(batch_id))
        return BatchPage(batches, f"c{int(rows[limit - 1][1])}" if len(rows) > limit else None)

    def owners(self) -> list[str]:
        """Of batches that are not over."""
        return sorted(map(str, self._redis.client.smembers(self._redis.key("batch_owners"))))

    def open(self, owner: str, limit: int = 100) -> list[str]:
        """Ids of the owner's batches that are not over, oldest first."""
        return [str(each) for each in self._redis.client.zrange(self._redis.key("batches_open", owner), 0, limit - 1)]

    def items(self, batch: Batch, count: int) -> list[JobSpec]:
        """The next items to become jobs."""
        texts = self._redis.client.lrange(self._redis.key("batch_items", batch.id), batch.next, batch.next + count - 1)
        return [read_json(JobSpec, str(text)) for text in texts]

    def failures(self, batch_id: str) -> list[BatchFailure]:
        """By index."""
        texts = cast("list[str]", self._redis.client.hvals(self._redis.key("batch_failures", batch_id)))
        return sorted((read_json(BatchFailure, text) for text in texts), key=lambda failure: failure.index)

    def waiting(self, owner: str) -> int:
        """Items of this owner that are not jobs yet."""
        return int(self._redis.field(self._redis.key("batch_waiting"), owner) or 0)

    def count_waiting(self) -> int:
        """Items of all owners that are not jobs yet."""
        return sum(map(int, cast("list[str]", self._redis.client.hvals(self._redis.key("batch_waiting")))))

    def cancel(self, batch_id: str) -> list[str]:
        """Drop the items that are not jobs yet. Returns the ids of the live jobs, which the caller cancels. A batch
        that is over stays as it is. Raises BatchNotFoundError."""
        (live,) = self._call("cancel_batch", batch_id)
        return [str(job_id) for job_id in live]

    def check(self, batch_id: str) -> int:
        """Count jobs whose records are gone as failed, and return how many there were. Raises BatchNotFoundError."""
        (lost,) = self._call("check_batch", batch_id, _UNREADABLE)
        return int(lost)

    def postpone(self, batch: Batch, *, first_s: float, longest_s: float) -> int:
        """Try the next item again after first_s, doubled at each failure up to longest_s. Returns how often it was
        tried; 0: another process made it a job."""
        pauses_ms = (int(first_s * 1000), int(longest_s * 1000))
        reply = self._redis.call_optional("postpone_batch", batch.id, batch.next, *pauses_ms)
        return 0 if reply is None else int(reply[0])

    def note_kept(self, batch_id: str) -> None:
        """The uploads of its items were kept from expiring now."""
        record = self._redis.key("batch", batch_id)
        if self._redis.client.exists(record):
            self._redis.client.hset(record, "kept_ms", str(self._redis.now_ms()))

    def due_for_deletion(self, limit: int = 100) -> list[str]:
        return self._redis.due("batches_over", limit)

    def delete(self, batch_id: str) -> None:
        """Delete a batch that is over; its jobs stay. Raises BatchNotFoundError, and WrongStateError while it runs."""
        self._call("delete_batch", batch_id)

    def set_aside(self, batch_id: str, owner: str) -> None:
        """An open batch whose record cannot be read is not looked at again."""
        self._redis.call("close_batch", batch_id, owner)

    def now(self) -> datetime:
        """The clock that all times of the store are taken from."""
        return self._redis.now()

    def _call(self, script: str, batch_id: str, *args: str | int) -> list[Any]:
        try:
            return self._redis.call(script, batch_id, *args)
        except JobNotFoundError:
            raise BatchNotFoundError(f"There is no {batch_id}") from None
