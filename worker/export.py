"""Puts the results of jobs where their callers want them: a PUT to their URL, or a copy in the object store.

Done here and not by the render worker: no GPU waits for a caller's server. A PUT of the whole file is repeatable, so an
attempt that was killed is made again and replaces what it had put. The job has succeeded whatever happens here; the
result stays downloadable, and the view of the job names the failure.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

from jobs.errors import ERROR_CODES, ServiceError
from jobs.models import DeliveryAttempt, ErrorInfo, Export, Job, ResultInfo
from jobs.names import export_key
from jobs.objects import ObjectNotFoundError, ObjectStore, ObjectStoreError
from jobs.settings import Settings
from jobs.store import JobNotFoundError, JobStore, LeaseLostError
from jobs.telemetry import log_context, span
from worker.delivery import JITTER, describe_status
from worker.egress import RATE_WINDOW_S, Egress, UnreachableError
from worker.faults import retry_redis

log = logging.getLogger(__name__)

# Longest silence of a receiver, if a lease is not shorter: a hold outlives it.
IDLE_S = 20.0
# Statuses that may be others in a while; any other refusal is final.
_PASSING = frozenset({408, 425, 429})


@dataclass(frozen=True)
class _Outcome:
    """error None: the result is there."""

    error: ErrorInfo | None = None
    status: int | None = None
    is_final: bool = False
    did: str = "answered"
    copy_bytes: int = 0


class ResultExporter:
    """Works on exports that the store handed out. Thread-safe. rate_window_s: see Egress."""

    def __init__(
        self, store: JobStore, objects: ObjectStore, settings: Settings, *, rate_window_s: float = RATE_WINDOW_S
    ) -> None:
        self._store, self._objects, self._settings = store, objects, settings
        self._rate_window_s = rate_window_s

    def export(self, export: Export) -> None:
        """Make one attempt and record its outcome. Raises RedisError; the export is due again when its hold ends."""
        try:
            job = self._store.jobs.get(export.job_id)
        except JobNotFoundError:
            return
        with (
            log_context(job=job.id, request=job.request_id),
            span("export", kind="client", parent=job.traceparent, job=job.id),
            suppress(LeaseLostError, JobNotFoundError),  # deleted, or another process has it
        ):
            at, began = datetime.now(UTC), time.monotonic()
            outcome = self._attempt(export, job)
            error = outcome.error.message if outcome.error else None
            duration_ms = round((time.monotonic() - began) * 1000)
            attempt = DeliveryAttempt(at=at, status_code=outcome.status, error=error, duration_ms=duration_ms)
            retry_redis(lambda: self._record(export, attempt, outcome))

    def _record(self, export: Export, attempt: DeliveryAttempt, outcome: _Outcome) -> None:
        pauses_s, exports = self._settings.export_retries_s, self._store.exports
        if outcome.error is None:
            log.info("result exported")
            exports.finish(export, attempt, outcome.copy_bytes)
        elif outcome.is_final or export.tries > len(pauses_s):
            log.warning("result not exported: %s", outcome.error.code)
            exports.fail(export, attempt, outcome.error, did=outcome.did)
        else:
            pause_s = pauses_s[export.tries - 1] * (1 + random.uniform(0, JITTER))
            log.info("result not exported yet: %s", outcome.error.code)
            exports.retry(export, attempt, outcome.error, pause_s=pause_s, did=outcome.did)

    def _attempt(self, export: Export, job: Job) -> _Outcome:
        """Raises LeaseLostError, RedisError."""
        if export.tries > len(self._settings.export_retries_s) + 1:
            message = "The process that exported the result died in every attempt that was allowed."
            return _Outcome(_error("export_unreachable", message), is_final=True, did="")
        try:
            return self._transfer(export, job)
        except (ObjectNotFoundError, ObjectStoreError, UnreachableError, ServiceError) as fault:
            return _failure(fault)

    def _transfer(self, export: Export, job: Job) -> _Outcome:
        output = job.spec.request.output
        if job.result is None:
            raise ObjectNotFoundError(job.id)
        if output.put_url is not None:
            return self._put(export, job, output.put_url, job.result)
        return self._copy(export, job, str(output.prefix), job.result)

    def _put(self, export: Export, job: Job, url: str, result: ResultInfo) -> _Outcome:
        settings = self._settings
        hold = _Hold(self._store, export, hold_s(settings))
        egress = Egress(
            tuple(settings.allow_private_hosts),
            idle_s=min(IDLE_S, settings.lease_s, settings.export_limit_s),
            total_s=settings.export_limit_s,
            min_bytes_per_s=settings.export_min_bytes_per_s,
            rate_window_s=self._rate_window_s,
            owner=job.owner,
            poll=hold.renew,
        )
        body = hold.watched(self._objects.read(result.key))
        headers = {"Content-Length": str(result.size_bytes)}
        if not _signs_empty_type(url):
            headers["Content-Type"] = result.content_type
        with egress.exchange("PUT", url, headers, body) as answer:
            status = answer.status
        if 200 <= status < 300:
            return _Outcome(status=status)
        message = describe_status(status)
        if status in _PASSING or status >= 500:
            return _Outcome(_error("export_unreachable", message), status, did="failed")
        return _Outcome(_error("export_refused", message), status, is_final=True)

    def _copy(self, export: Export, job: Job, prefix: str, result: ResultInfo) -> _Outcome:
        container = result.key.rpartition(".")[2]
        key = export_key(prefix, self._settings.output_prefixes, job.owner, job.id, container)
        if key is None:
            message = f"The operator does not allow copies in {prefix} any more."
            return _Outcome(_error("export_refused", message), is_final=True)
        # Before the copy is written, so that it is deleted with the job
        self._store.exports.renew(export, hold_s(self._settings), key)
        self._objects.copy(result.key, key)
        return _Outcome(copy_bytes=result.size_bytes)


def hold_s(settings: Settings) -> float:
    """How long an export is held. Renewed by the process that works on it; after its death, the export is due again."""
    return 2 * settings.lease_s


def _signs_empty_type(url: str) -> bool:
    """True for presigned links of signature version 2 (boto3's default in us-east-1): the type is part of what they
    sign, and they are made without one. Version 4 signs the headers that it names, by default the host alone."""
    names = {name for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    return "Signature" in names and bool(names & {"AWSAccessKeyId", "GoogleAccessId"})


class _Hold:
    """Renews the hold of an export while its file is on the way."""

    def __init__(self, store: JobStore, export: Export, hold_s: float) -> None:
        self._store, self._export, self._hold_s = store, export, hold_s
        self._renew_at = 0.0

    def renew(self) -> None:
        """Raises LeaseLostError."""
        if time.monotonic() >= self._renew_at:
            self._store.exports.renew(self._export, self._hold_s)
            self._renew_at = time.monotonic() + self._hold_s / 6

    def watched(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.renew()
            yield chunk


def _failure(fault: Exception) -> _Outcome:
    if isinstance(fault, ObjectNotFoundError):
        message = "The result is not in the object store any more."
        return _Outcome(_error("storage_failed", message), is_final=True, did="")
    if isinstance(fault, ObjectStoreError):
        return _Outcome(_error("storage_failed", "The object store did not give or take the result."), did="")
    if isinstance(fault, ServiceError):  # the address is no longer allowed: it was public at submission
        return _Outcome(_error(fault.code, fault.message), is_final=True, did="")
    return _Outcome(_error("export_unreachable", f"The result could not be put to its URL: {fault}."), did="failed")


def _error(code: str, message: str) -> ErrorInfo:
    return ErrorInfo(code=code, message=message, retryable=ERROR_CODES[code].retryable)
