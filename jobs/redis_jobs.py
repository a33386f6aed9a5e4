"""Jobs as callers see them: submission, reading, cancelling, deleting."""

from __future__ import annotations

import hashlib
import re

import redis

from jobs.egress import receiver_of
from jobs.ids import new_delivery_id
from jobs.models import Job, JobEvent, JobSpec, JobStatus
from jobs.redis_base import RedisPart
from jobs.redis_records import event_of, job_of, pairs
from jobs.store import UNOWNED, Created, IdempotencyKey, JobNotFoundError, JobPage, Origin, Outlook

MAX_PAGE = 200
MAX_EVENTS = 1000
_EVENT_ID = re.compile(r"\d{1,19}-\d{1,19}")
_CURSOR = re.compile(r"c\d{1,15}")


class JobRecords(RedisPart):
    def create(
        self,
        job_id: str,
        spec: JobSpec,
        *,
        max_attempts: int,
        idempotency: IdempotencyKey | None = None,
        origin: Origin = UNOWNED,
    ) -> Created:
        request = spec.request
        events = f" {' '.join(sorted(set(request.webhook_events)))} " if request.webhook_url else ""
        expires_ms = request.expires_in_s * 1000 if request.expires_in_s is not None else ""
        memory = (
            (_idempotency_name(idempotency.key, origin.owner), idempotency.fingerprint, idempotency.ttl_s * 1000)
            if idempotency
            else ("", "", "")
        )
        receiver = f"{origin.owner}@{receiver_of(str(request.webhook_url))}" if request.webhook_url else ""
        whose = (origin.owner, origin.live_jobs, origin.request_id, origin.traceparent, receiver)
        spec_json = spec.model_dump_json()
        is_new, fields = self._call(
            "create", job_id, spec_json, max_attempts, request.priority, expires_ms, events, *memory, *whose
        )
        return Created(job_of(pairs(fields)), is_new == "1")

    def mark_message_sent(self, job_id: str) -> None:
        self._call("mark_sent", job_id)

    def get(self, job_id: str) -> Job:
        fields = self._client.hgetall(self._key("job", job_id))
        if not fields:
            raise JobNotFoundError(f"There is no {job_id}")
        return job_of(fields)

    def list_jobs(
        self, *, status: JobStatus | None, cursor: str | None, limit: int, owner: str | None = None
    ) -> JobPage:
        """Newest first by creation number, so that a page stays what it is while jobs are added.

        Raises ValueError for a cursor that no page gave, and a limit outside 1..200.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise ValueError(f"limit is {limit}; it must be 1 to {MAX_PAGE}")
        if cursor is not None and not _CURSOR.fullmatch(cursor):
            raise ValueError("The cursor is not one that a page gave; start again without it")
        if status is None:
            line = self._key("created", owner)
        else:
            line = self._key("status", status.value if owner is None else f"{status.value}:{owner}")
        highest = "+inf" if cursor is None else f"({cursor[1:]}"
        rows = self._client.zrevrangebyscore(line, highest, "-inf", start=0, num=limit + 1, withscores=True)
        jobs = self._read_all([job_id for job_id, _ in rows[:limit]])
        return JobPage(jobs, f"c{int(rows[limit - 1][1])}" if len(rows) > limit else None)

    def queue_position(self, job_id: str) -> int | None:
        rank = self._client.zrank(self._key("waiting"), job_id)
        return None if rank is None else rank + 1

    def outlook(self, job_id: str) -> Outlook:
        position, mean_ms, workers = self._call("outlook", job_id)
        return Outlook(position or None, int(mean_ms) / 1000 if mean_ms else None, workers)

    def queue_depths(self) -> dict[int, int]:
        with self._client.pipeline(transaction=False) as pipe:
            for priority in (0, 1, 2):  # the classes of jobs/lua/prelude.lua, join_line
                low = (2 - priority) * 2**50
                pipe.zcount(self._key("waiting"), low, low + 2**50 - 1)
            return dict(enumerate(pipe.execute()))

    def count_by_status(self) -> dict[JobStatus, int]:
        with self._client.pipeline(transaction=False) as pipe:
            for status in JobStatus:
                pipe.zcard(self._key("status", status.value))
            return dict(zip(JobStatus, pipe.execute(), strict=True))

    def mean_run_s(self) -> float | None:
        mean_ms = self._client.get(self._key("mean_run_ms"))
        return None if mean_ms is None else int(mean_ms) / 1000

    def events(self, job_id: str, *, after: str | None, block_ms: int = 0) -> list[JobEvent]:
        """At most 1000 at once; waits no longer than half the client's socket timeout, so that waiting is never taken
        for a dead connection. An `after` that is no event id counts as None. Raises JobNotFoundError.
        """
        start = after if after is not None and _EVENT_ID.fullmatch(after) else "0-0"
        line = self._key("events", job_id)
        rows = self._client.xrange(line, f"({start}", "+", count=MAX_EVENTS)
        if not rows:
            if not self._client.exists(self._key("job", job_id)):
                raise JobNotFoundError(f"There is no {job_id}")
            if block_ms > 0:
                rows = self._wait_for_events(line, start, min(block_ms, self._longest_wait_ms()))
        return [event_of(event_id, fields) for event_id, fields in rows]

    def _wait_for_events(self, line: str, start: str, block_ms: int) -> list[tuple[str, dict[str, str]]]:
        try:
            streams = self._client.xread({line: start}, count=MAX_EVENTS, block=block_ms)
        except redis.TimeoutError:
            return []
        return streams[0][1] if streams else []

    def _longest_wait_ms(self) -> int:
        socket_timeout_s = self._client.connection_pool.connection_kwargs.get("socket_timeout") or 10.0
        return max(1, int(socket_timeout_s * 500))

    def request_cancel(self, job_id: str, *, retention_s: int) -> Job:
        (fields,) = self._call("request_cancel", job_id, retention_s * 1000, new_delivery_id())
        return job_of(pairs(fields))

    def delete(self, job_id: str) -> None:
        self._call("delete", job_id)

    def _read_all(self, job_ids: list[str]) -> list[Job]:
        """The jobs of these ids, less those deleted meanwhile."""
        with self._client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(self._key("job", job_id))
            return [job_of(fields) for fields in pipe.execute() if fields]


def _idempotency_name(key: str, owner: str) -> str:
    """Hashed: the key is a caller's text of any length and form, less newlines. Two owners may use the same one."""
    return hashlib.sha256((f"{owner}\n{key}" if owner else key).encode()).hexdigest()
