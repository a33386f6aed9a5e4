"""Periodic sweep: unsent messages, lost leases, passed deadlines, retention, orphaned files.

Any number of janitors may run; a lock in the store lets one of them work. Steps are independent: one that fails is
logged, and the others still run. So are items: one whose files cannot be deleted is counted, logged, and retried with
exponential backoff, so that it does not block the others. A step starts new items for STEP_S at most; the rest waits
for the next round.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial

from celery import Celery
from redis.exceptions import RedisError

from jobs.messages import MessageNotSentError, ask_to_evaluate, send_job, waiting_renders
from jobs.models import Job
from jobs.names import UPLOADS_PREFIX, is_job_id, job_prefix, lease_prefix, segments_prefix, upload_key
from jobs.objects import ObjectNotFoundError, ObjectStore, ObjectStoreError
from jobs.settings import Settings
from jobs.store import JanitorQueue, JobNotFoundError, JobStore
from worker.delivery import retry_window_s
from worker.face_cache import CacheLimits, StoredEntries

log = logging.getLogger(__name__)

LOCK = "janitor"
# The API sends a job's message itself within this time.
UNSENT_S = 2.0
# A message sent this long ago, and missing from the broker, was lost with its reader or with the broker's memory. One
# that was just taken is with a worker that is about to claim its job.
STRANDED_S = 15.0
# How often a presigned upload is measured until its link expires.
MEASURE_EVERY_S = 10.0
# How long a step starts new items.
STEP_S = 5.0
# Pauses after an item failed: the first, doubling up to the longest.
POSTPONE_FIRST_S = 30.0
POSTPONE_LONGEST_S = 3600.0
# The face cache and the uploads are listed whole each time.
SWEEP_EVERY_S = 60.0


class Janitor:
    """round() does everything once; start() and stop() do it in a thread, every `janitor_interval_s`."""

    def __init__(self, app: Celery, store: JobStore, objects: ObjectStore, settings: Settings) -> None:
        self._app = app
        self._store = store
        self._objects = objects
        self._settings = settings
        self._owner = secrets.token_hex(8)
        self._cache = StoredEntries(objects, CacheLimits(settings.face_cache_bytes, settings.face_cache_ttl_s))
        self._sweep_at: dict[str, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=10.0)
        self._do("unlock", lambda: self._keep_lock(0.001))

    def round(self) -> None:
        """All steps once, unless another janitor holds the lock. Raises nothing."""
        for step in (
            self.requeue_lost,
            self.fail_past_deadline,
            self.send_unsent,
            self.send_stranded,
            self.resume_evaluations,
            self.give_up_deliveries,
            self.delete_segments,
            self.delete_jobs,
            self.delete_exported,
            self.delete_quarantined,
            self.measure_uploads,
            self.delete_uploads,
            self.delete_orphans,
            self.sweep_uploads,
            self.sweep_face_cache,
        ):
            if not self._do("lock", self._keep_lock):
                return
            self._do(step.__name__, step)

    def requeue_lost(self) -> None:
        """A worker may die between publishing and reporting, so what its attempt published is deleted. One that is
        still alive, and publishes later, deletes its result itself."""
        lost = self._store.jobs.requeue_lost()
        for job in lost:
            log.warning("lease expired: %s", job.status, extra={"job": job.id, "attempt": job.attempt})
        self._send(lost)  # what is not sent now stays in the outbox
        for job in lost:
            self._do("delete what a lost attempt published", partial(self._delete_published, job))

    def _delete_published(self, job: Job) -> None:
        for key in list(self._objects.list_keys(lease_prefix(job.id, job.fence))):
            self._objects.delete(key)

    def fail_past_deadline(self) -> None:
        for job in self._store.jobs.fail_past_deadline(self._settings.retention_s):
            log.info("failed: past its deadline", extra={"job": job.id})

    def send_unsent(self) -> None:
        self._send(self._store.jobs.unsent(UNSENT_S))

    def send_stranded(self) -> None:
        """Only as many as the broker lacks, and only while a worker is idle. A long queue alone is no reason to send
        messages again: between two jobs, or when it hangs, a worker counts as idle while its queue is long."""
        if all(worker.busy_with for worker in self._store.workers.live()):
            return
        # The broker first: a job that is claimed in between then counts as one less that waits.
        in_broker = waiting_renders(self._app)
        for priority, count in self._store.jobs.queue_depths().items():
            lacking = count - in_broker[priority]
            if lacking > 0:
                self._send_lacking(priority, lacking)

    def _send_lacking(self, priority: int, lacking: int) -> None:
        """lacking: how many more jobs than messages wait. Jobs in the outbox have no message yet."""
        lacking -= len(self._store.jobs.unsent(0.0))
        self._send(self._store.jobs.stranded(priority, STRANDED_S)[: max(0, lacking)], "message sent again")

    def resume_evaluations(self) -> None:
        """Of jobs that succeeded, and whose worker died or shut down before it had evaluated them."""
        for job in self._store.evaluations.take_due(pause_s=STRANDED_S, longest_s=POSTPONE_LONGEST_S):
            try:
                ask_to_evaluate(self._app, job)
            except MessageNotSentError as fault:
                log.warning("message of an evaluation not sent, due again: %s", fault, extra={"job": job.id})
            else:
                log.warning("evaluation without a worker: message sent", extra={"job": job.id})

    def give_up_deliveries(self) -> None:
        """Events whose receiver did not answer for the whole schedule; they stay listed, and can be redelivered."""
        for delivery_id in self._store.webhooks.expire(retry_window_s(self._settings)):
            log.warning("webhook given up: retry window over", extra={"delivery": delivery_id})

    def delete_segments(self) -> None:
        """Of ended split jobs. A helper that is still writing finds its lease lost, and deletes its segment itself."""
        self._each("split_files", self._store.segments.ended(), self._delete_segments_of)

    def _delete_segments_of(self, job_id: str) -> None:
        count = self._objects.delete_prefix(segments_prefix(job_id))
        self._store.segments.drop(job_id)
        log.info("segment files deleted", extra={"job": job_id, "count": count})

    def delete_jobs(self) -> None:
        self._each("delete_at", self._store.jobs.due_for_deletion(), self._delete_job)

    def _delete_job(self, job_id: str) -> None:
        """Files first: a record without files is deleted in the next round, files without a record never."""
        count = self._objects.delete_prefix(job_prefix(job_id))
        try:
            self._store.jobs.delete(job_id)
        except JobNotFoundError:  # the caller deleted it meanwhile
            return
        log.info("deleted after its retention", extra={"job": job_id, "count": count})

    def delete_exported(self) -> None:
        """Copies of the results of deleted jobs."""
        self._each("exported_files", self._store.exports.deleted_copies(), self._delete_exported)

    def _delete_exported(self, job_id: str) -> None:
        if key := self._store.exports.copy_of(job_id):
            self._objects.delete(key)
        self._store.exports.drop_copy(job_id)

    def delete_quarantined(self) -> None:
        """An unreadable job has no known end: its retention starts when it was found."""
        for record in self._store.quarantine.records(older_than_s=self._settings.retention_s):
            if record.kind == "job" and is_job_id(record.id):
                self._objects.delete_prefix(job_prefix(record.id))
            self._store.quarantine.drop(record.kind, record.id)
            log.info("unreadable %s deleted after its retention", record.kind, extra={"step": record.id})

    def measure_uploads(self) -> None:
        """Of files put to presigned links, which bypass the service; one over the limit is deleted at once."""
        for upload_id in self._store.uploads.unmeasured():
            size_bytes = self._size_of(upload_key(upload_id))
            if size_bytes is not None and size_bytes > self._settings.max_upload_bytes:
                log.warning("an upload over the limit is deleted", extra={"count": size_bytes})
                self._objects.delete(upload_key(upload_id))
                size_bytes = None
            self._store.uploads.measure(upload_id, size_bytes, MEASURE_EVERY_S)

    def _size_of(self, key: str) -> int | None:
        try:
            return self._objects.info(key).size_bytes
        except ObjectNotFoundError:
            return None

    def delete_uploads(self) -> None:
        self._each("uploads", self._store.uploads.expired(), self._delete_upload)

    def _delete_upload(self, upload_id: str) -> None:
        self._objects.delete(upload_key(upload_id))
        self._store.uploads.drop(upload_id)

    def delete_orphans(self) -> None:
        """Files of a job that was never stored, because the API died or could not reach the bucket."""
        self._each("arrivals", self._store.uploads.expired_arrivals(), self._delete_orphan)

    def _delete_orphan(self, job_id: str) -> None:
        count = self._objects.delete_prefix(job_prefix(job_id))
        self._store.uploads.drop_arrival(job_id)
        log.info("files without a job deleted", extra={"job": job_id, "count": count})

    def sweep_uploads(self) -> None:
        """A PUT to a presigned link that ends after its upload has expired leaves a file without a record."""
        if not self._is_time_to_sweep("uploads"):
            return
        for key in self._objects.list_keys(UPLOADS_PREFIX):
            if not self._store.uploads.exists(key.removeprefix(UPLOADS_PREFIX)):
                self._objects.delete(key)
                log.info("file of an expired upload deleted", extra={"key": key})

    def sweep_face_cache(self) -> None:
        """Also deletes the entries of accounts without a valid key."""
        if not self._is_time_to_sweep("face cache"):
            return
        keys = self._store.keys.all()
        closed = {key.account for key in keys} - {key.account for key in keys if key.is_valid}
        for key in self._cache.sweep(closed):
            log.info("cache entry deleted", extra={"key": key})

    def _is_time_to_sweep(self, what: str) -> bool:
        if time.monotonic() < self._sweep_at.get(what, 0.0):
            return False
        self._sweep_at[what] = time.monotonic() + SWEEP_EVERY_S
        return True

    def _each(self, line: JanitorQueue, items: Iterable[str], action: Callable[[str], None]) -> None:
        """Run the action on each item of a line of the store. One that fails is due again later."""
        deadline = time.monotonic() + STEP_S
        for item in items:
            if time.monotonic() > deadline:
                return
            try:
                action(item)
            except RedisError:  # of all items, not of this one
                raise
            except Exception as fault:
                pause_s = self._store.janitor_failures.postpone(
                    line, item, first_s=POSTPONE_FIRST_S, longest_s=POSTPONE_LONGEST_S
                )
                log.error(
                    "janitor: an item failed, retrying in %s s: %s",
                    pause_s,
                    type(fault).__name__,
                    exc_info=None if isinstance(fault, ObjectStoreError) else fault,
                    extra={"step": f"{line}:{item}"},
                )
            else:
                self._store.janitor_failures.clear(line, item)

    def _send(self, jobs: Iterable[Job], why: str = "") -> None:
        """Send the messages of queued jobs. An unreachable broker fails slowly, and for all, so the first failure ends
        it."""
        for job in jobs:
            try:
                send_job(self._app, self._store, job)
            except (MessageNotSentError, RedisError) as fault:
                log.warning("messages not sent, retrying in the next round: %s", type(fault).__name__)
                return
            except Exception as fault:
                log.error("janitor: %s", type(fault).__name__, exc_info=fault, extra={"job": job.id})
            else:
                if why:
                    log.warning(why, extra={"job": job.id})

    def _keep_lock(self, ttl_s: float | None = None) -> bool:
        """Acquired again before each step: a slow round keeps it, and a dead janitor is soon replaced."""
        lock_s = max(10.0, 3 * self._settings.janitor_interval_s) if ttl_s is None else ttl_s
        return self._store.locks.acquire(LOCK, self._owner, lock_s)

    def _do(self, name: str, step: Callable[[], object]) -> object:
        try:
            return step()
        except Exception as fault:
            log.error("janitor: %s", type(fault).__name__, exc_info=fault, extra={"step": name})
            return None

    def _run(self) -> None:
        log.info("janitor started at %s", datetime.now(UTC).isoformat(timespec="seconds"))
        while not self._stopped.is_set():
            self.round()
            self._stopped.wait(self._settings.janitor_interval_s)
