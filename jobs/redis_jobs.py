"""Jobs as callers see them: submission, reading, cancelling, deleting."""

from __future__ import annotations

import hashlib
import logging
import re
from functools import lru_cache
from typing import Any

import redis

from jobs.egress import receiver_of
from jobs.ids import new_delivery_id
from jobs.models import Job, JobEvent, JobSpec, JobStatus
from jobs.redis_quarantine import Quarantine, is_record_fault
from jobs.redis_records import UNREADABLE, event_of, job_of, pairs, stored_json
from jobs.store import (
    UNOWNED,
    Created,
    IdempotencyKey,
    JobNotFoundError,
    JobPage,
    Origin,
    Outlook,
    RecordUnreadableError,
)

log = logging.getLogger(__name__)

MAX_PAGE = 200
MAX_EVENTS = 1000
_EVENT_ID = re.compile(r"\d{1,19}-\d{1,19}")
_CURSOR = re.compile(r"c\d{1,15}")


class JobRecords(Quarantine):
    def create(
        self,
        job_id: str,
        spec: JobSpec,
        *,
        max_attempts: int,
        idempotency: IdempotencyKey | None = None,
        origin: Origin = UNOWNED,
        arrived: bool = False,
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
        whose = (origin.owner, origin.live_jobs, origin.request_id, origin.traceparent, int(arrived), receiver)
        addresses = [str(ref.url) for ref in (spec.video, spec.audio) if ref.kind == "url"]
        fetched_from = f"{origin.owner}@{receiver_of(addresses[0])}" if addresses else ""
        asked = (stored_json(spec), max_attempts, request.priority, expires_ms, events)
        is_new, fields = self._create(job_id, memory[0], *asked, *memory, *whose, fetched_from)
        if is_new == "1":
            return Created(self._job(job_id, pairs(fields)), True)
        first = self._client.hget(self._key("idempotency", memory[0]), "job_id")
        return Created(self._job(first or job_id, pairs(fields)), False)

    def _create(self, job_id: str, idempotency: str, *args: object) -> list[Any]:
        """A record that an earlier job under the same key left unreadable makes room for this one."""
        try:
            return self._call("create", job_id, *args)
        except (redis.ResponseError, UnicodeDecodeError) as fault:
            first = self._client.hget(self._key("idempotency", idempotency), "job_id") if idempotency else None
            if first is None:
                raise
            self._blame(first, fault)
            return self._call("create", job_id, *args)

    def mark_message_sent(self, job_id: str) -> None:
        self._call("mark_sent", job_id)

    def get(self, job_id: str) -> Job:
        job = self._read_job(job_id)
        if job is None:
            raise self._known_as_unreadable(job_id) or JobNotFoundError(f"There is no {job_id}")
        return job

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
        return Outlook(position or None, _seconds_of(mean_ms), workers)

    def queue_depths(self) -> dict[int, int]:
        with self._client.pipeline(transaction=False) as pipe:
            for priority in (0, 1, 2):
                pipe.zcount(self._key("waiting"), *class_scores(priority))
            return dict(enumerate(pipe.execute()))

    def count_by_status(self) -> dict[JobStatus, int]:
        with self._client.pipeline(transaction=False) as pipe:
            for status in JobStatus:
                pipe.zcard(self._key("status", status.value))
            return dict(zip(JobStatus, pipe.execute(), strict=True))

    def mean_run_s(self) -> float | None:
        return _seconds_of(self._client.get(self._key("mean_run_ms")))

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
        return [event for event in (_read_event(job_id, *row) for row in rows) if event is not None]

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
        return self._job(job_id, pairs(fields))

    def delete(self, job_id: str) -> None:
        self._call("delete", job_id)

    def _read_all(self, job_ids: list[str]) -> list[Job]:
        """The jobs of these ids, less those deleted meanwhile and those that can not be read."""
        jobs = []
        for job_id, fields in zip(job_ids, self._fields_of_all(job_ids), strict=True):
            try:
                job = self._job(job_id, fields) if fields else None
            except RecordUnreadableError:
                continue
            if job is not None:
                jobs.append(job)
        return jobs

    def _fields_of_all(self, job_ids: list[str]) -> list[dict[str, str] | None]:
        """In one round trip, unless a record among them is no hash of texts."""
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for job_id in job_ids:
                    pipe.hgetall(self._key("job", job_id))
                return pipe.execute()
        except (redis.ResponseError, UnicodeDecodeError) as fault:
            if not is_record_fault(fault):
                raise
        return [self._fields_or_none(job_id) for job_id in job_ids]

    def _fields_or_none(self, job_id: str) -> dict[str, str] | None:
        try:
            return self._fields_of(job_id)
        except RecordUnreadableError:
            return None

    def _fields_of(self, job_id: str) -> dict[str, str]:
        try:
            return self._client.hgetall(self._key("job", job_id))
        except (redis.ResponseError, UnicodeDecodeError) as fault:
            if not is_record_fault(fault):
                raise
            raise RecordUnreadableError(job_id, self._set_aside("job", job_id, fault)) from fault

    def _read_job(self, job_id: str) -> Job | None:
        """None: there is none. Raises RecordUnreadableError."""
        fields = self._fields_of(job_id)
        return self._job(job_id, fields) if fields else None

    def _job(self, job_id: str, fields: dict[str, str]) -> Job:
        try:
            return job_of(fields)
        except UNREADABLE as fault:
            raise RecordUnreadableError(job_id, self._set_aside("job", job_id, fault)) from fault

    def _blame(self, job_id: str, fault: Exception) -> None:
        """A script broke off over this job. Sets its record aside; raises `fault` where the record can be read, since
        then the server is at fault."""
        try:
            self._read_job(job_id)
        except RecordUnreadableError:
            return
        raise fault


def _read_event(job_id: str, event_id: str, fields: dict[str, str]) -> JobEvent | None:
    """None for one that can not be read: the rest of the history stands without it."""
    try:
        return event_of(event_id, fields)
    except UNREADABLE as fault:
        _say_once(job_id, event_id, type(fault).__name__)
        return None


@lru_cache(maxsize=1024)
def _say_once(job_id: str, event_id: str, reason: str) -> None:
    """Listeners read the same event again and again; the cache is what makes this `once`."""
    log.warning("unreadable event %s passed over: %s", event_id, reason, extra={"job": job_id})


def _seconds_of(milliseconds: str | None) -> float | None:
    """None for a duration that is not known, or no number."""
    return int(milliseconds) / 1000 if milliseconds and milliseconds.isdecimal() else None


def class_scores(priority: int) -> tuple[int, int]:
    """Lowest and highest score in `waiting` of jobs of a priority: see join_line in jobs/lua/prelude.lua."""
    low = (2 - priority) * 2**50
    return low, low + 2**50 - 1


def _idempotency_name(key: str, owner: str) -> str:
    """Hashed: the key is a caller's text of any length and form, less newlines. Two owners may use the same one."""
    return hashlib.sha256((f"{owner}\n{key}" if owner else key).encode()).hexdigest()
