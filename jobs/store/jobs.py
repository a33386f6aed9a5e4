"""Jobs: submission, reading, a worker's way through a job, and what the janitor repairs.

Every transition is one Lua script: atomic and fenced. A worker acts through the `Lease` that it was given; if another
worker has taken the job over, it gets LeaseLostError and its call has no effect.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

import redis

from jobs.egress import receiver_of
from jobs.errors import ERROR_CODES
from jobs.models import ErrorInfo, Job, JobEvent, JobSpec, JobStatus, MetricResult, RenderInfo, ResultInfo
from jobs.names import new_delivery_id
from jobs.store.base import RedisBase
from jobs.store.quarantine import Quarantine, is_record_fault
from jobs.store.records import UNREADABLE, event_of, metrics_json, pairs, stored_json
from jobs.store.types import (
    UNOWNED,
    Created,
    IdempotencyKey,
    JobNotFoundError,
    JobPage,
    Lease,
    Origin,
    QueueEstimate,
    RecordUnreadableError,
)

log = logging.getLogger(__name__)

MAX_PAGE = 200
# Jobs that are read for one page of a filtered list
MAX_SCAN = 2000
MAX_EVENTS = 1000
_EVENT_ID = re.compile(r"\d{1,19}-\d{1,19}")
CURSOR = re.compile(r"c\d{1,15}")


def _error_json(code: str, message: str) -> str:
    return ErrorInfo(code=code, message=message, retryable=ERROR_CODES[code].retryable).model_dump_json()


_LOST = _error_json("worker_lost", "The worker died or gave up in every attempt that was allowed.")
_TOO_LATE = _error_json("deadline_exceeded", "The job was still queued when its expires_in_s had passed.")


class Jobs:
    """retention_s: for jobs that end without a caller who names one (lost workers, deadlines)."""

    def __init__(self, base: RedisBase, quarantine: Quarantine, retention_s: int) -> None:
        self._redis, self._quarantine = base, quarantine
        self.retention_s = retention_s

    # Submission

    def create(
        self,
        job_id: str,
        spec: JobSpec,
        *,
        max_attempts: int,
        idempotency: IdempotencyKey | None = None,
        origin: Origin = UNOWNED,
        arrived: bool = False,
        error: ErrorInfo | None = None,
        waited_s: float = 0.0,
    ) -> Created:
        """Store a queued job with its queue entry, its outbox entry (message not yet sent) and its deadline. A job with
        inputs given by URL joins queue and outbox only when they are fetched (jobs/store/transfers.py).

        An idempotency key that already created a job returns that job unchanged if the fingerprints agree, else raises
        IdempotencyConflictError. Keys of different owners are independent.

        arrived: files came under this id (uploads.add_arrival); the job takes over the bytes reserved for them. Raises
        ArrivalLostError if they were discarded meanwhile. Raises QuotaExceededError if the owner has too many live
        jobs, RecordNotStorableError if the spec could not be read back.

        For an item of a batch (spec.batch), raises WrongStateError unless it is the next of its batch. error: why it
        cannot be rendered; the job fails with it at once. waited_s: how long it waited before; part of expires_in_s.
        """
        request = spec.request
        events = f" {' '.join(sorted(set(request.webhook_events)))} " if request.webhook_url else ""
        expires_ms = "" if request.expires_in_s is None else max(1, round((request.expires_in_s - waited_s) * 1000))
        memory = (
            (idempotency_name(idempotency.key, origin.owner), idempotency.fingerprint, idempotency.ttl_s * 1000)
            if idempotency
            else ("", "", "")
        )
        receiver = f"{origin.owner}@{receiver_of(str(request.webhook_url))}" if request.webhook_url else ""
        submitter = (origin.owner, origin.live_jobs, origin.request_id, origin.traceparent, int(arrived), receiver)
        urls = [str(ref.url) for ref in spec.inputs.values() if ref.kind == "url"]
        fetch_receiver = f"{origin.owner}@{receiver_of(urls[0])}" if urls else ""
        job = (stored_json(spec), max_attempts, request.priority, expires_ms, events)
        place = (spec.batch.id, spec.batch.index) if spec.batch else ("", "")
        failure = (stored_json(error) if error else "", self.retention_s * 1000, new_delivery_id())
        is_new, fields = self._create(
            job_id,
            memory[0],
            *job,
            *memory,
            *submitter,
            fetch_receiver,
            *place,
            *failure,
            _export_receiver(spec, origin),
        )
        if is_new == "1":
            return Created(self._quarantine.readable_job(job_id, pairs(fields)), True)
        first = self._redis.field(self._redis.key("idempotency", memory[0]), "job_id")
        return Created(self._quarantine.readable_job(first or job_id, pairs(fields)), False)

    def _create(self, job_id: str, idempotency: str, *args: str | int) -> list[Any]:
        """An unreadable record that an earlier job left under the same idempotency key makes room for this job."""
        try:
            return self._redis.call("create", job_id, *args)
        except (redis.ResponseError, UnicodeDecodeError) as fault:
            memory = self._redis.key("idempotency", idempotency)
            first = self._redis.field(memory, "job_id") if idempotency else None
            if first is None:
                raise
            self._set_aside_or_raise(first, fault)
            return self._redis.call("create", job_id, *args)

    def mark_message_sent(self, job_id: str) -> None:
        """The broker accepted the job's message: remove it from the outbox."""
        self._redis.call("mark_sent", job_id)

    # Reading. An unreadable record is set aside; all others are served.

    def get(self, job_id: str) -> Job:
        """Raises JobNotFoundError; its subclass RecordUnreadableError for a job in quarantine."""
        job = self._read_job(job_id)
        if job is None:
            raise self._quarantine.find_job(job_id) or JobNotFoundError(f"There is no {job_id}")
        return job

    def get_with_estimate(self, job_id: str) -> tuple[Job, QueueEstimate | None]:
        """get(), and what an ETA is computed from unless the record is at fault, in one round trip: most requests are
        polls."""
        try:
            fields, rank, mean_ms, workers = self._redis.call("read_job", job_id)
        except (redis.ResponseError, UnicodeDecodeError) as fault:
            if not is_record_fault(fault):
                raise
            return self.get(job_id), None
        if not fields:
            return self.get(job_id), None
        return self._quarantine.readable_job(job_id, pairs(fields)), _estimate(rank, mean_ms, workers)

    def page(
        self,
        *,
        status: JobStatus | None,
        cursor: str | None,
        limit: int,
        owner: str | None = None,
        matches: Callable[[Job], bool] | None = None,
        not_before: datetime | None = None,
        batch: str | None = None,
    ) -> JobPage:
        """Newest first by creation number, so that a page stays the same while jobs are added. owner None: of all
        owners. not_before: jobs created earlier are left out. batch: jobs of this batch alone, of any status and owner.

        With `matches`, at most MAX_SCAN jobs are read for a page: it may have fewer jobs than `limit`, even none, and
        yet a next one. Raises ValueError for a cursor that no page returned, and a limit outside 1..200.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise ValueError(f"limit is {limit}; it must be 1 to {MAX_PAGE}")
        if cursor is not None and not CURSOR.fullmatch(cursor):
            raise ValueError("The cursor was not returned by a page; start again without it")
        if batch is not None:
            index = self._redis.key("batch_jobs", batch)
        elif status is None:
            index = self._redis.key("created", owner)
        else:
            index = self._redis.key("status", status.value if owner is None else f"{status.value}:{owner}")
        step = limit if matches is None else MAX_PAGE
        jobs: list[Job] = []
        for _ in range(1 if matches is None else MAX_SCAN // step):
            highest = "+inf" if cursor is None else f"({cursor[1:]}"
            found = self._redis.client.zrevrangebyscore(index, highest, "-inf", start=0, num=step + 1, withscores=True)
            rows = cast("list[tuple[str, float]]", found)
            read = {job.id: job for job in self._read_all([job_id for job_id, _ in rows[:step]])}
            for number, (job_id, seq) in enumerate(rows[:step], start=1):
                job = read.get(job_id)
                if job is not None and not_before is not None and job.created_at < not_before:
                    return JobPage(jobs, None)
                if job is not None and (matches is None or matches(job)):
                    jobs.append(job)
                cursor = f"c{int(seq)}"
                if len(jobs) == limit:
                    return JobPage(jobs, cursor if number < len(rows) else None)
            if len(rows) <= step:
                return JobPage(jobs, None)
        return JobPage(jobs, cursor)

    def queue_position(self, job_id: str) -> int | None:
        """1 is next. O(log n)."""
        rank = cast("int | None", self._redis.client.zrank(self._redis.key("waiting"), job_id))
        return None if rank is None else rank + 1

    def queue_estimates(self, job_ids: Sequence[str]) -> list[QueueEstimate]:
        """Of at least one job. Positions, mean duration and live workers, in one round trip."""
        mean_ms, workers, *ranks = self._redis.call("read_queue", *job_ids)
        return [_estimate(rank, mean_ms, workers) for rank in ranks]

    def queue_depths(self) -> dict[int, int]:
        """Waiting jobs by priority."""
        with self._redis.client.pipeline(transaction=False) as pipe:
            for priority in (0, 1, 2):
                pipe.zcount(self._redis.key("waiting"), *_class_scores(priority))
            return dict(enumerate(pipe.execute()))

    def count_by_status(self) -> dict[JobStatus, int]:
        """Jobs in the store, for every status."""
        with self._redis.client.pipeline(transaction=False) as pipe:
            for status in JobStatus:
                pipe.zcard(self._redis.key("status", status.value))
            return dict(zip(JobStatus, pipe.execute(), strict=True))

    def count_live(self, owner: str) -> int:
        """Jobs of this owner that are not over."""
        return self._redis.client.scard(self._redis.key("live", owner))

    def mean_run_s(self) -> float | None:
        """Smoothed duration of recent successful runs, for ETAs; None if there was none yet."""
        return _seconds_of(self._redis.text(self._redis.key("mean_run_ms")))

    def events(self, job_id: str, *, after: str | None, block_ms: int = 0) -> list[JobEvent]:
        """History after an event id (None, or no event id: from the start), at most 1000 events.

        Waits up to block_ms for a first event, but no longer than half the client's socket timeout, so that waiting is
        never mistaken for a dead connection. Raises JobNotFoundError.
        """
        start = after if after is not None and _EVENT_ID.fullmatch(after) else "0-0"
        stream = self._redis.key("events", job_id)
        rows = self._redis.client.xrange(stream, f"({start}", "+", count=MAX_EVENTS)
        if not rows:
            if not self._redis.client.exists(self._redis.key("job", job_id)):
                raise JobNotFoundError(f"There is no {job_id}")
            if block_ms > 0:
                rows = self._wait_for_events(stream, start, min(block_ms, self._longest_wait_ms()))
        found = cast("list[tuple[str, dict[str, str]]]", rows or [])
        return [event for event in (_read_event(job_id, *row) for row in found) if event is not None]

    def _wait_for_events(self, stream: str, start: str, block_ms: int) -> list[Any]:
        try:
            streams = self._redis.client.xread({stream: start}, count=MAX_EVENTS, block=block_ms)
        except redis.TimeoutError:
            return []
        return cast("list[Any]", streams)[0][1] if streams else []

    def changes(self, poll_s: float = 5.0) -> Iterator[tuple[str, bool] | None]:
        """Id of a job, and whether it goes on, at each of its events, as they happen; None whenever earlier ones may
        have been missed, also at the start. Never ends. Raises redis.RedisError."""
        with self._redis.client.pubsub() as subscription:  # type: ignore[no-untyped-call]
            subscription.subscribe(self._redis.key("changes"))
            while True:
                message = subscription.get_message(timeout=poll_s)
                if message is not None and message["type"] == "subscribe":
                    yield None
                elif message is not None:
                    job_id, _, status = message["data"].partition(" ")
                    yield job_id, status in (JobStatus.QUEUED, JobStatus.RUNNING)

    def _longest_wait_ms(self) -> int:
        socket_timeout_s = self._redis.client.connection_pool.connection_kwargs.get("socket_timeout") or 10.0
        return max(1, int(socket_timeout_s * 500))

    # A worker's way through a job

    def claim(self, job_id: str, worker_id: str, lease_s: float) -> Lease | None:
        """Lease a queued job. None: it is over, deleted, canceled, past its deadline (then it is failed here), leased,
        or its inputs are not fetched yet."""
        reply = self._redis.call_optional(
            "claim",
            job_id,
            worker_id,
            int(lease_s * 1000),
            secrets.token_hex(8),
            new_delivery_id(),
            self.retention_s * 1000,
            _TOO_LATE,
        )
        return None if reply is None else Lease(job_id, worker_id, fence=int(reply[0]), attempt=int(reply[1]))

    def report(self, lease: Lease, *, stage: str, progress: float, lease_s: float) -> bool:
        """Renew the lease and store the progress (0..1, never decreasing). Returns whether cancellation was requested.
        Raises LeaseLostError."""
        if not stage or not 0.0 <= progress <= 1.0:
            raise ValueError(f"A report needs a stage and a progress of 0..1, not {stage!r} and {progress!r}")
        return self._renew(lease, lease_s, stage, repr(float(progress)))

    def renew(self, lease: Lease, lease_s: float) -> bool:
        """Renew the lease. Returns whether cancellation was requested. Raises LeaseLostError."""
        return self._renew(lease, lease_s, "", "")

    def _renew(self, lease: Lease, lease_s: float, stage: str, progress: str) -> bool:
        lease_ms = int(lease_s * 1000)
        (cancel,) = self._redis.call("report", *_identity(lease), lease_ms, stage, progress, new_delivery_id())
        return bool(cancel == "1")

    def succeed(
        self,
        lease: Lease,
        *,
        result: ResultInfo,
        render: RenderInfo | None,
        evaluation: Sequence[MetricResult] | None,
        retention_s: int,
        evaluation_lease_s: float | None = None,
    ) -> Job:
        """running -> succeeded. Raises WrongStateError if cancellation was requested before: then call cancel().

        render: None for an analysis. evaluation_lease_s: the evaluation follows (jobs/store/leases.py); this
        worker holds it under the first fence.
        """
        metrics = "" if evaluation is None else metrics_json(evaluation)
        pending = "" if evaluation_lease_s is None else str(int(evaluation_lease_s * 1000))
        outcome = (stored_json(result), stored_json(render) if render else "", metrics, "")
        return self._finish(lease, "succeed", retention_s, outcome, pending)

    def fail(self, lease: Lease, error: ErrorInfo, *, retention_s: int) -> Job:
        """running -> failed."""
        return self._finish(lease, "fail", retention_s, ("", "", "", stored_json(error)))

    def cancel(self, lease: Lease, *, retention_s: int) -> Job:
        """running -> canceled: the worker stopped because cancellation was requested."""
        return self._finish(lease, "cancel", retention_s, ("", "", "", ""))

    def _finish(
        self, lease: Lease, verb: str, retention_s: int, outcome: tuple[str, str, str, str], pending: str = ""
    ) -> Job:
        identity = (*_identity(lease), verb, retention_s * 1000, new_delivery_id())
        (fields,) = self._redis.call("finish", *identity, *outcome, pending)
        return self._quarantine.readable_job(lease.job_id, pairs(fields))

    def release(self, lease: Lease, *, count_attempt: bool) -> Job:
        """Return the job to the queue (shutdown, or a transient fault). After max_attempts it fails as worker_lost."""
        (fields,) = self._redis.call(
            "release", *_identity(lease), int(count_attempt), self.retention_s * 1000, new_delivery_id(), _LOST
        )
        return self._quarantine.readable_job(lease.job_id, pairs(fields))

    def abandon(self, job_id: str, worker_id: str) -> int:
        """For the parent of a worker that died: expire its leases on the job and on segments of it now; requeue_lost()
        does the rest. Returns how many leases there were."""
        (held,) = self._redis.call("abandon", job_id, worker_id)
        return int(held)

    # Requests of callers

    def request_cancel(self, job_id: str, *, retention_s: int) -> Job:
        """queued: canceled at once. running: flagged for the worker. Over: unchanged. Raises JobNotFoundError."""
        (fields,) = self._redis.call("request_cancel", job_id, retention_s * 1000, new_delivery_id())
        return self._quarantine.readable_job(job_id, pairs(fields))

    def delete(self, job_id: str) -> None:
        """Delete a job that is over, with its events and deliveries. Raises WrongStateError while it is live."""
        self._redis.call("delete", job_id)

    # The janitor's rounds

    def unsent(self, older_than_s: float, limit: int = 100) -> list[Job]:
        """Jobs that have been in the outbox that long."""
        before_ms = self._redis.now_ms() - int(older_than_s * 1000)
        return self._read_queue("outbox", self._redis.due("outbox", limit, before_ms=before_ms))

    def stranded(self, priority: int, older_than_s: float, limit: int = 100) -> list[Job]:
        """Queued jobs of a priority whose message was sent that long ago and that no worker claimed, in queue order.

        While the broker has a message for each of them they are merely waiting; otherwise messages were lost: send
        again, and mark_message_sent(). The broker delivers in queue order, so the first jobs are those without one.
        """
        before_ms = self._redis.now_ms() - int(older_than_s * 1000)
        first = self._redis.range_by_score(self._redis.key("waiting"), *_class_scores(priority), limit)
        with self._redis.client.pipeline(transaction=False) as pipe:
            for job_id, _ in first:
                pipe.zscore(self._redis.key("sent"), job_id)
            sent_ms = pipe.execute()
        return self._read_queue(
            "waiting",
            [
                job_id
                for (job_id, _), at_ms in zip(first, sent_ms, strict=True)
                if at_ms is not None and at_ms <= before_ms
            ],
        )

    def _read_queue(self, queue: str, job_ids: list[str]) -> list[Job]:
        """Ids without a readable job leave the queue: at its head they would use up the limit."""
        jobs = self._read_all(job_ids)
        if gone := set(job_ids) - {job.id for job in jobs}:
            self._redis.client.zrem(self._redis.key(queue), *gone)
        return jobs

    def requeue_lost(self, limit: int = 100) -> list[Job]:
        """Running jobs whose lease expired: back to queue and outbox, or failed as worker_lost."""
        return self._expire("leases", "expire_lease", self.retention_s * 1000, _LOST, limit)

    def fail_past_deadline(self, retention_s: int, limit: int = 100) -> list[Job]:
        return self._expire("deadlines", "expire_deadline", retention_s * 1000, _TOO_LATE, limit)

    def _expire(self, queue: str, script: str, retention_ms: int, error_json: str, limit: int) -> list[Job]:
        """One atomic step per job, so that an interrupted round leaves no job half done. A job whose record is broken
        goes into quarantine."""
        jobs = []
        for job_id in self._redis.due(queue, limit):
            try:
                reply = self._redis.call_optional(script, job_id, retention_ms, new_delivery_id(), error_json)
                if reply is not None:
                    jobs.append(self._quarantine.readable_job(job_id, pairs(reply[0])))
            except RecordUnreadableError:
                continue
            except (redis.ResponseError, UnicodeDecodeError) as fault:
                self._set_aside_or_raise(job_id, fault)
        return jobs

    def due_for_deletion(self, limit: int = 100) -> list[str]:
        """Ids of jobs past delete_at; the caller deletes their files, then calls delete()."""
        return self._redis.due("delete_at", limit)

    # Records

    def _read_all(self, job_ids: list[str]) -> list[Job]:
        """The jobs with these ids, without those deleted meanwhile and those that cannot be read."""
        jobs = []
        for job_id, fields in zip(job_ids, self._fields_of_all(job_ids), strict=True):
            try:
                job = self._quarantine.readable_job(job_id, fields) if fields else None
            except RecordUnreadableError:
                continue
            if job is not None:
                jobs.append(job)
        return jobs

    def _fields_of_all(self, job_ids: list[str]) -> list[dict[str, str] | None]:
        """In one round trip, unless a record among them is not a hash of texts."""
        try:
            with self._redis.client.pipeline(transaction=False) as pipe:
                for job_id in job_ids:
                    pipe.hgetall(self._redis.key("job", job_id))
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
            return self._redis.fields(self._redis.key("job", job_id))
        except (redis.ResponseError, UnicodeDecodeError) as fault:
            if not is_record_fault(fault):
                raise
            raise RecordUnreadableError(job_id, self._quarantine.set_aside("job", job_id, fault)) from fault

    def _read_job(self, job_id: str) -> Job | None:
        """None: there is none. Raises RecordUnreadableError."""
        fields = self._fields_of(job_id)
        return self._quarantine.readable_job(job_id, fields) if fields else None

    def _set_aside_or_raise(self, job_id: str, fault: Exception) -> None:
        """After a script failed on this job: set its record aside. Raises `fault` if the record can be read, since then
        the server is at fault."""
        try:
            self._read_job(job_id)
        except RecordUnreadableError:
            return
        raise fault


def _export_receiver(spec: JobSpec, origin: Origin) -> str:
    """Whom the export of the result waits for; the object store is one receiver of each owner."""
    output = spec.request.output
    if output.put_url is not None:
        return f"{origin.owner}@{receiver_of(output.put_url)}"
    return f"{origin.owner}@" if output.prefix is not None else ""


def _identity(lease: Lease) -> tuple[str, int, str]:
    return lease.job_id, lease.fence, lease.worker_id


def _read_event(job_id: str, event_id: str, fields: dict[str, str]) -> JobEvent | None:
    """None for an event that cannot be read: the rest of the history is valid without it."""
    try:
        return event_of(event_id, fields)
    except UNREADABLE as fault:
        _warn_once(job_id, event_id, type(fault).__name__)
        return None


@lru_cache(maxsize=1024)
def _warn_once(job_id: str, event_id: str, reason: str) -> None:
    """Listeners read the same event repeatedly; the cache suppresses repeated warnings."""
    log.warning("unreadable event %s skipped: %s", event_id, reason, extra={"job": job_id})


def _estimate(rank: int | None, mean_ms: str | None, workers: int) -> QueueEstimate:
    """rank: in the queue, from 0; None: the job is not in it."""
    return QueueEstimate(None if rank is None else rank + 1, _seconds_of(mean_ms), workers)


def _seconds_of(milliseconds: str | None) -> float | None:
    """None for an unknown duration, or text that is not a number."""
    return int(milliseconds) / 1000 if milliseconds and milliseconds.isdecimal() else None


def _class_scores(priority: int) -> tuple[int, int]:
    """Lowest and highest score in `waiting` of jobs with a priority, see join_line in jobs/lua/prelude.lua."""
    low = (2 - priority) * 2**50
    return low, low + 2**50 - 1


def idempotency_name(key: str, owner: str) -> str:
    """Hashed, because the key is arbitrary text of a caller. Two owners may use the same key."""
    return hashlib.sha256((f"{owner}\n{key}" if owner else key).encode()).hexdigest()
