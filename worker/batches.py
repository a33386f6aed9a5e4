"""Makes the items of open batches jobs, a few at a time.

A batch is stored as a whole; its items become ordinary jobs while the batches of their owner have fewer live jobs than
the window. So a batch of 500 delays the jobs of others by a few renders, and counts against the owner's limits as its
jobs do. Any number of feeders may run; a lock in the store lets one of them work. Each item becomes a job in one step
of the store, which also moves the batch to its next item: a feeder that dies makes no item two jobs and loses none.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from contextlib import suppress
from datetime import timedelta

from celery import Celery
from redis.exceptions import RedisError

from jobs.errors import ERROR_CODES
from jobs.intake import check_speech, check_upload
from jobs.messages import MessageNotSentError, send_job
from jobs.models import Batch, ErrorInfo, InputPart, InputRef, Job, JobSpec
from jobs.names import input_key, job_prefix, new_job_id
from jobs.objects import ObjectStore, ObjectStoreError
from jobs.opening import FreeSpace, byte_quota, storage_refusal
from jobs.settings import Settings
from jobs.store import (
    ArrivalLostError,
    BatchNotFoundError,
    JobStore,
    Origin,
    QuotaExceededError,
    RecordNotStorableError,
    RecordUnreadableError,
    StorageQuotaError,
    WrongStateError,
)
from jobs.telemetry import log_context
from worker.faults import describe_fault, is_unexpected

log = logging.getLogger(__name__)

LOCK = "batches"
LOCK_S = 30.0
POLL_S = 0.25
STORE_AWAY_S = 1.0
# Live jobs of an owner's batches: enough for every worker to find its next job, few enough for others to wait little.
MIN_WINDOW = 8
WINDOW_PER_WORKER = 2
# How long the items of one owner become jobs before it is the next owner's turn.
TURN_S = 1.0
# An item that cannot become a job now, because storage is full or away: first pause, longest pause, tries (15 minutes).
PAUSE_S, LONGEST_PAUSE_S, TRIES = 5.0, 300.0, 9
# How often the jobs of open batches are compared with their records.
CHECK_EVERY_S = 10.0


class BatchFeeder:
    """round() does everything once; start() and stop() do it in a thread."""

    def __init__(
        self, app: Celery, store: JobStore, objects: ObjectStore, space: FreeSpace, settings: Settings
    ) -> None:
        self._app, self._store, self._objects, self._space, self._settings = app, store, objects, space, settings
        self._holder = secrets.token_hex(8)
        self._check_at = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """An item that is being copied is finished; one that is not is made a job by another feeder."""
        self._stopped.set()
        self._thread.join(timeout=10.0)

    def _run(self) -> None:
        while not self._stopped.is_set():
            pause_s = POLL_S
            try:
                self.round()
            except RedisError as fault:
                log.warning("the job store did not answer: %s", type(fault).__name__)
                pause_s = STORE_AWAY_S
            except Exception:
                log.exception("batches: a round failed")
                pause_s = STORE_AWAY_S
            self._stopped.wait(pause_s)
        self._release()

    def _release(self) -> None:
        try:
            self._store.locks.release(LOCK, self._holder)
        except RedisError:
            return  # it expires

    def round(self) -> None:
        """Raises RedisError."""
        if not self._keep_lock():
            return
        for batch_id in self._store.batches.due_for_deletion():
            with suppress(BatchNotFoundError):  # deleted meanwhile
                self._store.batches.delete(batch_id)
            log.info("batch deleted after its retention", extra={"step": batch_id})
        is_check_due = time.monotonic() >= self._check_at
        if is_check_due:
            self._check_at = time.monotonic() + CHECK_EVERY_S
        for owner in self._store.batches.owners():
            self._take_turn(owner, self._open_batches(owner, is_check_due))
            if self._stopped.is_set() or not self._keep_lock():
                return

    def _keep_lock(self) -> bool:
        return self._store.locks.acquire(LOCK, self._holder, LOCK_S)

    def _open_batches(self, owner: str, is_check_due: bool) -> list[Batch]:
        """Oldest first. Those that are not among the first of their owner have no jobs yet."""
        found = []
        for batch_id in self._store.batches.open(owner):
            try:
                if is_check_due and (lost := self._store.batches.check(batch_id)):
                    log.error("%s jobs of the batch have no readable record", lost, extra={"step": batch_id})
                found.append(self._store.batches.get(batch_id))
            except BatchNotFoundError:
                self._store.batches.set_aside(batch_id, owner)
            except RecordUnreadableError as fault:
                log.error("an unreadable batch is set aside", exc_info=fault, extra={"step": batch_id})
                self._store.batches.set_aside(batch_id, owner)
        return found

    def _take_turn(self, owner: str, batches: list[Batch]) -> None:
        """As many items become jobs as the window of the owner has room for."""
        now, ends_at = self._store.batches.now(), time.monotonic() + TURN_S
        room = self._window() - sum(batch.counts.queued + batch.counts.running for batch in batches)
        for each in batches:
            batch = each
            with log_context(request=batch.request_id):
                if batch.cancel_requested or now > batch.created_at + timedelta(seconds=self._settings.retention_s):
                    self._cancel(batch)
                    continue
                if now > batch.kept_at + timedelta(seconds=self._settings.upload_ttl_s / 4):
                    self._keep_uploads(batch)
                if batch.paused_until is not None and now < batch.paused_until:
                    continue
                while room > 0 and batch.next < batch.total and time.monotonic() < ends_at:
                    if self._stopped.is_set() or not self._has_quota(batch) or not self._keep_lock():
                        return
                    if not self._make_next(batch):
                        break
                    batch = batch.model_copy(update={"next": batch.next + 1, "tries": 0})
                    room -= 1

    def _window(self) -> int:
        return max(MIN_WINDOW, WINDOW_PER_WORKER * len(self._store.workers.live()))

    def _has_quota(self, batch: Batch) -> bool:
        return not batch.owner or self._store.jobs.count_live(batch.owner) < self._live_jobs(batch.owner)

    def _live_jobs(self, owner: str) -> int:
        """Most unfinished jobs that the owner may have now."""
        account = self._store.accounts.find(owner) if owner else None
        own = account.live_jobs if account is not None else None
        return own or self._settings.live_jobs_per_key

    def _cancel(self, batch: Batch) -> None:
        """Also completes a cancel whose API died halfway."""
        for job_id in self._store.batches.cancel(batch.id):
            self._store.jobs.request_cancel(job_id, retention_s=self._settings.retention_s)

    def _keep_uploads(self, batch: Batch) -> None:
        """Uploads of items that are not jobs yet do not expire."""
        for spec in self._store.batches.items(batch, batch.total):
            for ref in spec.inputs.values():
                if ref.upload_id is not None:
                    self._store.uploads.keep(ref.upload_id, self._settings.upload_ttl_s)
        self._store.batches.note_kept(batch.id)

    def _make_next(self, batch: Batch) -> bool:
        """The next item of the batch becomes a job; one that cannot be rendered, a failed one. False: not now."""
        specs = self._store.batches.items(batch, 1)
        if not specs:  # canceled meanwhile
            return False
        job_id, spec = new_job_id(), specs[0]
        try:
            whole = self._with_files(job_id, spec, batch)
            job = self._create(job_id, whole, batch)
        except (WrongStateError, QuotaExceededError):
            self._discard(job_id)
            return False
        except RedisError:
            raise  # what was copied is an arrival that expires, unless it is the job's by now
        except Exception as fault:
            self._discard(job_id)
            error = describe_fault(fault)
            if is_unexpected(error):
                log.exception("an item cannot become a job", extra={"step": batch.id})
            if self._is_postponed(batch, error, fault):
                return False
            log.warning("an item cannot become a job: %s", error.code, extra={"job": job_id})
            return self._fail(job_id, spec, batch, error)
        self._send(job)
        return True

    def _is_postponed(self, batch: Batch, error: ErrorInfo, fault: Exception) -> bool:
        """Storage that is full or away may be there again in a while; an upload that is no video will not change."""
        if not (isinstance(fault, (ObjectStoreError, ArrivalLostError)) or ERROR_CODES[error.code].retryable):
            return False
        tries = self._store.batches.postpone(batch, first_s=PAUSE_S, longest_s=LONGEST_PAUSE_S)
        log.warning("an item cannot become a job yet: %s", error.code, extra={"step": batch.id})
        return tries < TRIES

    def _fail(self, job_id: str, spec: JobSpec, batch: Batch, error: ErrorInfo) -> bool:
        try:
            self._create(job_id, spec, batch, error)
        except (WrongStateError, RecordNotStorableError):
            return False
        return True

    def _create(self, job_id: str, spec: JobSpec, batch: Batch, error: ErrorInfo | None = None) -> Job:
        waited_s = (self._store.batches.now() - batch.created_at).total_seconds()
        origin = Origin(
            batch.owner, self._live_jobs(batch.owner), request_id=batch.request_id, traceparent=batch.traceparent
        )
        return self._store.jobs.create(
            job_id,
            spec,
            max_attempts=self._settings.max_attempts,
            origin=origin,
            arrived=error is None and _has_files(spec),
            error=error,
            waited_s=waited_s,
        ).job

    def _with_files(self, job_id: str, spec: JobSpec, batch: Batch) -> JobSpec:
        """Copies of its uploads become the job's files. Raises ServiceError, ObjectStoreError, ArrivalLostError."""
        if not _has_files(spec):
            return spec
        self._space.check()
        account = self._store.accounts.find(batch.owner) if batch.owner else None
        quota = byte_quota(self._settings, batch.owner, account)
        self._store.uploads.add_arrival(job_id, self._settings.upload_ttl_s)
        copies: dict[InputPart, InputRef] = {}
        size_bytes = 0
        for part, ref in spec.inputs.items():
            if ref.upload_id is None:
                continue
            upload = check_upload(self._store, self._objects, self._settings, part, ref.upload_id, None)
            size_bytes += upload.size_bytes
            try:
                self._store.uploads.reserve(job_id, size_bytes, quota)
            except StorageQuotaError as refusal:
                raise storage_refusal(is_owners=refusal.is_owners) from None
            copies[part] = upload.copy_to(self._objects, input_key(job_id, part))
        whole = JobSpec.of(spec.inputs | copies, spec.segments, spec.request, batch=spec.batch)
        check_speech(whole, self._settings)
        return whole

    def _discard(self, job_id: str) -> None:
        """What was copied for a job that was not made. The janitor does it where this fails."""
        try:
            self._objects.delete_prefix(job_prefix(job_id))
        except ObjectStoreError as fault:
            log.warning("copies for an item could not be deleted yet: %s", type(fault).__name__)
        else:
            self._store.uploads.drop_arrival(job_id)

    def _send(self, job: Job) -> None:
        if job.awaits_inputs:
            return
        try:
            send_job(self._app, self._store, job)
        except (MessageNotSentError, RedisError) as fault:
            log.warning("the message waits in the outbox: %s", type(fault).__name__)


def _has_files(spec: JobSpec) -> bool:
    return any(ref.kind == "object" for ref in spec.inputs.values())
