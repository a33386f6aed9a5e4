"""Fetching the inputs that a job names by their URLs, before any render worker can claim it.

A stranger's server may be slow for as long as the limits allow; here that costs a thread, and no GPU waits for it. The
files go straight into the object store, under names of this fetch; the job joins the queue when all of them are there.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import urljoin

from celery import Celery
from redis.exceptions import RedisError

from jobs.errors import ServiceError
from jobs.intake import check_container
from jobs.messages import MessageNotSentError, send_job
from jobs.models import ErrorInfo, InputPart, InputRef, Job, slot_of
from jobs.names import fetched_input_key
from jobs.objects import ObjectStore, ObjectStoreError, ObjectWriter
from jobs.opening import FreeSpace, byte_quota, storage_refusal
from jobs.settings import Settings
from jobs.store import ByteQuota, Fetch, JobNotFoundError, JobStore, LeaseLostError, StorageQuotaError
from jobs.telemetry import log_context, span
from retalking_core.errors import RenderCanceled
from retalking_core.vocabulary.containers import HEAD_BYTES
from worker.egress import RATE_WINDOW_S, Egress, TooSlowError, UnreachableError
from worker.faults import describe_fault, is_transient, is_unexpected, retry_redis
from worker.lease import LeaseKeeper, ShutdownRequestedError
from worker.scratch import FETCHED, too_large
from worker.supervision import ShutdownNotice

log = logging.getLogger(__name__)

MAX_REDIRECTS = 3
IDLE_S = 30.0
# Pauses before a second and a third try; a server that restarts is back by then.
RETRY_PAUSES_S = (1.0, 4.0)
# Before a fetch that the object store or a lack of threads ended is begun anew; longer each time.
RELEASE_PAUSE_S = 5.0
# Of a file whose size is not announced, so many bytes more are reserved at a time.
RESERVE_BYTES = 1 << 20
_RECEIVERS_FAULTS = frozenset({"input_unreachable", "input_too_slow"})


class _PassingError(Exception):
    """The URL may answer in a moment."""


class FetchLeaseBackend:
    """The store, as a LeaseKeeper sees it when the lease is a fetch."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    def report(self, lease: Fetch, *, stage: str, progress: float, lease_s: float) -> bool:
        return self._store.fetches.renew(lease, lease_s, stage=stage, progress=progress)

    def renew(self, lease: Fetch, lease_s: float) -> bool:
        return self._store.fetches.renew(lease, lease_s)


class InputFetcher:
    """Works on fetches that the store handed out. Thread-safe."""

    def __init__(
        self,
        app: Celery,
        store: JobStore,
        objects: ObjectStore,
        space: FreeSpace,
        settings: Settings,
        notice: ShutdownNotice,
        *,
        retry_pauses_s: Sequence[float] = RETRY_PAUSES_S,
        rate_window_s: float = RATE_WINDOW_S,
    ) -> None:
        self._app = app
        self._store = store
        self._objects = objects
        self._space = space
        self._settings = settings
        self._notice = notice
        self._retry_pauses_s = retry_pauses_s
        self._rate_window_s = rate_window_s

    def fetch(self, fetch: Fetch) -> None:
        """One fetch of all inputs of a job. Every end of it reaches the store, or the hold runs out."""
        job = fetch.job
        with (
            log_context(job=job.id, request=job.request_id),
            span("fetch", kind="client", parent=job.traceparent, job=job.id),
        ):
            try:
                self._fetch(fetch)
            except RedisError as fault:
                log.error("the job store is away; the fetch is due again when its hold ends: %s", type(fault).__name__)
            except (LeaseLostError, JobNotFoundError):
                self._drop(fetch)

    def _fetch(self, fetch: Fetch) -> None:
        self._delete_files(fetch, range(1, fetch.fence))
        if fetch.job.status.is_over:
            raise LeaseLostError(fetch.job_id)
        if fetch.attempt > fetch.job.max_attempts:
            message = "The process that fetched the inputs died in every attempt that was allowed."
            self._fail(fetch, fetch.last_error or describe_fault(ServiceError("worker_lost", message)))
            return
        keeper = LeaseKeeper(
            FetchLeaseBackend(self._store),
            fetch,
            lease_s=self._settings.lease_s,
            stall_s=self._settings.stall_s,
            notice=self._notice,
        )
        try:
            with keeper:
                inputs = self._download(fetch, keeper)
            job = retry_redis(lambda: self._store.fetches.finish(fetch, inputs))
        except (LeaseLostError, RenderCanceled):
            raise LeaseLostError(fetch.job_id) from None
        except ShutdownRequestedError:
            self._release(fetch, pause_s=0.0, error=None)
        except RedisError:
            raise
        except Exception as fault:
            self._give_up(fetch, fault)
        else:
            log.info("inputs fetched")
            self._send(job)

    def _download(self, fetch: Fetch, keeper: LeaseKeeper) -> dict[InputPart, InputRef]:
        settings = self._settings
        egress = Egress(
            tuple(settings.allow_private_hosts),
            idle_s=IDLE_S,
            total_s=settings.fetch_limit_s,
            min_bytes_per_s=settings.fetch_min_bytes_per_s,
            rate_window_s=self._rate_window_s,
            owner=fetch.job.owner,
        )
        claim = FetchClaim(fetch, self._store, self._space, settings)
        limits = (settings.max_upload_bytes, self._retry_pauses_s)
        return Download(fetch, self._objects, egress, claim, keeper, *limits, partial(self._note_error, fetch)).run()

    def _note_error(self, fetch: Fetch, error: ServiceError) -> None:
        """A caller whose server is silent is told so, also if this process is killed in every attempt."""
        try:
            self._store.fetches.renew(fetch, self._settings.lease_s, error=describe_fault(error))
        except RedisError as fault:
            log.warning("the error of a try was not kept: %s", type(fault).__name__)

    def _give_up(self, fetch: Fetch, fault: Exception) -> None:
        """Due again after a passing fault while attempts are left; else failed, with a public reason."""
        error = describe_fault(fault)
        log.log(
            logging.ERROR if is_unexpected(error) else logging.WARNING,
            "fetch failed: %s",
            error.code,
            exc_info=fault if is_unexpected(error) else None,
        )
        if is_transient(fault) and fetch.attempt < fetch.job.max_attempts:
            self._release(fetch, pause_s=RELEASE_PAUSE_S * fetch.attempt**2, error=error)
        else:
            self._fail(fetch, error)

    def _fail(self, fetch: Fetch, error: ErrorInfo) -> None:
        self._delete_files(fetch, [fetch.fence])
        is_receivers = error.code in _RECEIVERS_FAULTS
        retention_s = self._settings.retention_s
        retry_redis(lambda: self._store.fetches.fail(fetch, error, is_receivers=is_receivers, retention_s=retention_s))

    def _release(self, fetch: Fetch, *, pause_s: float, error: ErrorInfo | None) -> None:
        self._delete_files(fetch, [fetch.fence])
        retry_redis(lambda: self._store.fetches.release(fetch, pause_s=pause_s, error=error))

    def _drop(self, fetch: Fetch) -> None:
        """The files first: from then on nothing leads to them."""
        log.info("the job went on without this fetch")
        if self._delete_files(fetch, [fetch.fence]):
            retry_redis(lambda: self._store.fetches.drop(fetch))

    def _send(self, job: Job) -> None:
        try:
            send_job(self._app, self._store, job)
        except (MessageNotSentError, RedisError) as fault:
            log.warning("the message waits in the outbox: %s", type(fault).__name__)

    def _delete_files(self, fetch: Fetch, fences: Iterable[int]) -> bool:
        """Of fetches that are over. False where the object store is away: they go with the job's other files, or when
        the hold has ended."""
        parts = [part for part, ref in fetch.job.inputs.items() if ref.kind == "url"]
        try:
            for fence in fences:
                for part in parts:
                    self._objects.delete(fetched_input_key(fetch.job_id, part, fence))
        except ObjectStoreError as fault:
            log.warning("files of a fetch could not be deleted yet: %s", type(fault).__name__)
            return False
        return True


class FetchClaim:
    """The bytes of one fetch in the object store: reserved before they are written, exact when they are there."""

    def __init__(self, fetch: Fetch, store: JobStore, space: FreeSpace, settings: Settings) -> None:
        self._fetch, self._store, self._space, self._settings = fetch, store, space, settings
        self._quota: ByteQuota | None = None
        self._reserved_bytes = 0

    def need(self, size_bytes: int) -> None:
        """So many bytes are about to be stored, of all files together. Raises storage_full, storage_quota_exceeded."""
        self._space.check()
        if size_bytes > self._reserved_bytes:
            self._reserve(max(size_bytes, self._reserved_bytes + RESERVE_BYTES))

    def settle(self, size_bytes: int) -> None:
        """So many there are."""
        if size_bytes != self._reserved_bytes:
            self._reserve(size_bytes)

    def _reserve(self, size_bytes: int) -> None:
        quota = self._quota = self._quota or retry_redis(self._find_quota)
        try:
            retry_redis(lambda: self._store.fetches.reserve(self._fetch, size_bytes, quota))
        except StorageQuotaError as refusal:
            raise storage_refusal(is_owners=refusal.is_owners) from None
        self._reserved_bytes = size_bytes

    def _find_quota(self) -> ByteQuota:
        owner = self._fetch.job.owner
        return byte_quota(self._settings, owner, self._store.accounts.find(owner) if owner else None)


@dataclass
class Download:
    """All inputs of one job that are URLs, one after the other. `egress.total_s` bounds them together, redirects
    and tries included."""

    fetch: Fetch
    objects: ObjectStore
    egress: Egress
    claim: FetchClaim
    keeper: LeaseKeeper
    max_bytes: int
    retry_pauses_s: Sequence[float]
    on_failed_try: Callable[[ServiceError], None]
    """Called before a try is repeated."""

    def __post_init__(self) -> None:
        self._ends_at = time.monotonic() + self.egress.total_s
        self._stored_bytes = 0
        self._segment_bytes = sum(ref.size_bytes or 0 for ref in self.fetch.job.spec.segment_audio.values())
        self._fraction = 0.0

    def run(self) -> dict[InputPart, InputRef]:
        """Raises ServiceError (input_unreachable, input_too_slow, url_not_allowed, body_too_large, file_empty,
        container_unsupported, storage_full, storage_quota_exceeded), ObjectStoreError, and what the keeper raises."""
        job, inputs = self.fetch.job, {}
        for number, (part, ref) in enumerate(job.inputs.items()):
            self._fraction = FETCHED * number / len(job.inputs)
            self._beat(part)
            if ref.kind == "url":
                key = fetched_input_key(job.id, part, self.fetch.fence)
                inputs[part] = self._fetch(str(ref.url), part, key)
        self._fraction = FETCHED
        self._beat(None)
        self.claim.settle(self._stored_bytes)
        return inputs

    def _fetch(self, url: str, part: InputPart, key: str) -> InputRef:
        for pause_s in (*self.retry_pauses_s, None):
            try:
                stored = self._download(url, part, key)
            except _PassingError as fault:
                if time.monotonic() + (pause_s or 0.0) >= self._ends_at:
                    raise self._too_late(part) from fault
                error = ServiceError("input_unreachable", f"The {part} could not be fetched: {fault}.")
                if pause_s is None:
                    raise error from fault
                self.on_failed_try(error)
                self.keeper.wait(pause_s)
            else:
                self._stored_bytes += stored.size_bytes or 0
                if part in self.fetch.job.spec.segment_audio:
                    self._segment_bytes += stored.size_bytes or 0
                return stored
        raise AssertionError("the last try returns or raises")

    def _download(self, url: str, part: InputPart, key: str) -> InputRef:
        """Follows at most MAX_REDIRECTS redirects; each URL is checked like the first."""
        for _ in range(MAX_REDIRECTS + 1):
            outcome = self._request(url, part, key)
            if isinstance(outcome, InputRef):
                return outcome
            url = _redirected(url, outcome, part)
        raise ServiceError("input_unreachable", f"The {part} URL redirects more than {MAX_REDIRECTS} times.")

    def _request(self, url: str, part: InputPart, key: str) -> InputRef | str:
        """One GET. Returns where it redirects to, or the stored file."""
        left_s = self._ends_at - time.monotonic()
        if left_s <= 0:
            raise self._too_late(part)
        try:
            with replace(self.egress, total_s=left_s, poll=partial(self._beat, None)).exchange("GET", url) as answer:
                fields = {key.lower(): value for key, value in answer.headers}
                if answer.status in (301, 302, 303, 307, 308) and b"location" in fields:
                    return fields[b"location"].decode("latin-1")
                self._check_answer(answer.status, fields.get(b"content-length", b""), part)
                with self.objects.writer(key) as writer:
                    size_bytes, sha256 = self._write_body(answer.iter_stream(), part, writer)
                return InputRef(kind="object", key=key, size_bytes=size_bytes, sha256=sha256)
        except TooSlowError as fault:
            raise ServiceError("input_too_slow", f"The {part} comes too slowly from its URL: {fault}.") from None
        except UnreachableError as fault:
            raise _PassingError(str(fault)) from fault

    def _check_answer(self, status: int, length: bytes, part: str) -> None:
        if status == 429 or status >= 500:
            raise _PassingError(f"its URL answered with status {status}")
        if status != 200:
            raise ServiceError("input_unreachable", f"The {part} URL answered with status {status}.")
        announced = int(length) if length.isdigit() else 0
        self._check_size(announced, part)
        self.claim.need(self._stored_bytes + announced)

    def _check_size(self, size_bytes: int, part: InputPart) -> None:
        if size_bytes > self.max_bytes:
            raise too_large(part, self.max_bytes)
        if part in self.fetch.job.spec.segment_audio and self._segment_bytes + size_bytes > self.max_bytes:
            message = f"The speech of all segments together is larger than {self.max_bytes} bytes."
            raise ServiceError("body_too_large", message)

    def _write_body(self, body: Iterable[bytes], part: InputPart, writer: ObjectWriter) -> tuple[int, str]:
        """Size and SHA-256. The kind of the file is read from its first bytes, before more of it is stored."""
        size, head, is_checked, digest = 0, b"", False, hashlib.sha256()
        for chunk in body:
            size += len(chunk)
            self._check_size(size, part)
            if not is_checked:
                head += chunk
                is_checked = len(head) >= HEAD_BYTES and bool(
                    check_container(head[:HEAD_BYTES], slot_of(part), f"`{part}` file")
                )
            self.claim.need(self._stored_bytes + size)
            writer.write(chunk)
            digest.update(chunk)
            self._beat(size)
        if not size:
            raise ServiceError("file_empty", f"The {part} URL answered with an empty file.")
        if not is_checked:
            check_container(head[:HEAD_BYTES], slot_of(part), f"`{part}` file")
        writer.commit()
        return size, digest.hexdigest()

    def _beat(self, detail: object) -> None:
        self.keeper.beat("fetch", self._fraction, detail)

    def _too_late(self, part: str) -> ServiceError:
        limit_s = self.egress.total_s
        message = f"The {part} had not arrived when the {limit_s:g} s for the inputs' URLs were over."
        return ServiceError("input_too_slow", message)


def _redirected(url: str, location: str, part: str) -> str:
    """The URL that a Location header leads to. What stands in it is the other side's: it may be no URL."""
    try:
        return urljoin(url, location)
    except ValueError:
        message = f"The {part} URL redirects to something that is not a well-formed URL."
        raise ServiceError("input_unreachable", message) from None
