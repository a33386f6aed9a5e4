"""The contract of the job store. One real implementation (`redis_store.RedisJobStore`), one suite of tests.

Every transition is atomic and fenced: a worker acts through the `Lease` it was given, and one whose lease was taken
over gets `LeaseLostError` instead of an effect. Times are those of the store's own clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from jobs.api_keys import ApiKey
from jobs.leases import Lease, LeaseLostError
from jobs.models import (
    Delivery,
    DeliveryAttempt,
    DeliveryState,
    ErrorInfo,
    InputRef,
    Job,
    JobEvent,
    JobSpec,
    JobStatus,
    MetricResult,
    RenderInfo,
    ResultInfo,
    WorkerInfo,
)
from jobs.segments import SegmentStore

__all__ = ["Lease", "LeaseLostError"]

JanitorLine = Literal["delete_at", "uploads", "arrivals", "split_files"]


# What can be in quarantine
RecordKind = Literal["job", "delivery", "api_key", "worker"]


class JobNotFoundError(LookupError):
    """No job, or no delivery, with this id."""


class RecordUnreadableError(JobNotFoundError):
    """The job's record can not be read and is in quarantine. A kind of JobNotFoundError, because whoever has nothing
    else to say about such a job treats it like one that was deleted. owner: empty where it is not known."""

    def __init__(self, job_id: str, owner: str = "") -> None:
        super().__init__(f"The record of {job_id} can not be read")
        self.owner = owner


class RecordNotStorableError(ValueError):
    """What was to be stored can not be read back, so it was not stored."""


class IdempotencyConflictError(Exception):
    """The key was used for another request."""


class WrongStateError(Exception):
    """The job is in a state that does not allow this (delete while live, redeliver with nothing to deliver)."""


class QuotaExceededError(Exception):
    """The owner has as many live jobs as it may have."""


class StorageQuotaError(Exception):
    """So many bytes may not be stored. is_owners: the owner's share is used up; else that of all owners together."""

    def __init__(self, *, is_owners: bool) -> None:
        super().__init__("The bytes that may be stored are used up")
        self.is_owners = is_owners


class ArrivalLostError(Exception):
    """The files of a submission took so long that the janitor has given them up."""


class KeyNotFoundError(LookupError):
    """No API key with this id."""


@dataclass(frozen=True)
class IdempotencyKey:
    """fingerprint: hash of everything that was asked, files included."""

    key: str
    fingerprint: str
    ttl_s: int


@dataclass(frozen=True)
class Origin:
    """Where a submission came from. owner: id of an API key, empty where none is required. live_jobs: how many jobs
    that are not over the owner may have. request_id, traceparent: to find its lines and spans again."""

    owner: str = ""
    live_jobs: int = 0
    request_id: str = ""
    traceparent: str = ""


UNOWNED = Origin()


@dataclass(frozen=True)
class ByteQuota:
    """What may be stored. of_owner: by this owner, where there is one; of_all: by all together, in bytes."""

    owner: str
    of_owner: int
    of_all: int


@dataclass(frozen=True)
class Allowance:
    """left: requests that would pass now. retry_in_s: until one passes; full_in_s: until a minute's worth is there."""

    is_allowed: bool
    left: int
    retry_in_s: float
    full_in_s: float


@dataclass(frozen=True)
class Outlook:
    """position: 1 is next, None when not queued. mean_run_s: as mean_run_s(). workers: how many are live."""

    position: int | None
    mean_run_s: float | None
    workers: int


@dataclass(frozen=True)
class Durations:
    """A histogram. buckets: (upper bound in seconds, how many took no longer), the last bound being infinite."""

    buckets: tuple[tuple[float, int], ...]
    sum_s: float


@dataclass(frozen=True)
class Tally:
    """counts: kind -> name -> how often. Kinds: finished (by status), failed (by code), requeued (by reason), webhook
    (by outcome of an attempt), face_cache, quarantined (by kind of record). durations: kind -> name -> histogram.
    Kinds: wait (by priority), stage, run."""

    counts: dict[str, dict[str, int]]
    durations: dict[str, dict[str, Durations]]


@dataclass(frozen=True)
class Created:
    """is_new: false when an idempotency key led to the job that was there."""

    job: Job
    is_new: bool


@dataclass(frozen=True)
class QuarantinedRecord:
    """A record that could not be read. owner: of a job, empty where it is not known. reason: the kind of fault and
    where it lies, without any content. at: when it was found."""

    kind: RecordKind
    id: str
    owner: str
    reason: str
    at: datetime


@dataclass(frozen=True)
class JobPage:
    """jobs: newest first. next_cursor: pass it to get the following page; None at the end."""

    jobs: list[Job]
    next_cursor: str | None


@dataclass(frozen=True)
class DeliveryPage:
    """deliveries: oldest first. next_cursor: pass it to get the following page; None at the end."""

    deliveries: list[Delivery]
    next_cursor: str | None


@dataclass(frozen=True)
class ReceiverRules:
    """How deliveries and fetches are shared out. A receiver is an owner's host and port.

    slots: requests that a process makes at once. per_receiver: of those, to one receiver that answers; per_untrusted:
    to one that has not answered yet, or failed last; three quarters of the slots are for all such. An owner holds no
    more slots than it leaves free. hold_s: after this an item whose holder died is due again.
    """

    slots: int
    hold_s: float
    per_receiver: int = 8
    per_untrusted: int = 1


@dataclass(frozen=True)
class WebhookBacklog:
    """pending: events still to be delivered. due: those of them whose time has come and that nobody sends yet."""

    pending: int
    due: int
    given_up: int


@dataclass(frozen=True)
class WebhookSecretState:
    """version: the one that signs, from 1. previous: the one that signs beside it until previous_until."""

    version: int = 1
    previous: int | None = None
    previous_until: datetime | None = None


@dataclass(frozen=True)
class Fetch:
    """The right to fetch a job's inputs. job: as it was when the right was given, also over: then what an earlier fetch
    stored is to be deleted. holder: token of this right. fence: grows with every fetch of the job. attempt: how many of
    them counted, from 1."""

    job: Job
    holder: str
    fence: int
    attempt: int

    @property
    def job_id(self) -> str:
        return self.job.id


class JobStore(SegmentStore, Protocol):
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
    ) -> Created:
        """Store a queued job: in the waiting line, in the outbox (message not yet sent), with its deadline, atomically.
        One whose inputs are addresses joins both only when they are fetched (jobs/fetches.py).

        With a key that already made a job: that job, unchanged, when the fingerprints agree; else
        IdempotencyConflictError. The body was received by then, so no reservation is needed. Keys of two owners never
        meet. QuotaExceededError when the owner's live jobs are used up. RecordNotStorableError, before anything is
        stored, for a spec that can not be read back.

        arrived: files came under this id (add_arrival). The job holds what was reserved for them. ArrivalLostError
        where they were given up meanwhile.
        """
        ...

    def mark_message_sent(self, job_id: str) -> None:
        """The broker took the job's message: leave the outbox."""
        ...

    # Reading. A record that can not be read is set aside, and everybody else's are served.
    def get(self, job_id: str) -> Job:
        """Raises JobNotFoundError; its kind RecordUnreadableError for a job in quarantine."""
        ...

    def list_jobs(
        self, *, status: JobStatus | None, cursor: str | None, limit: int, owner: str | None = None
    ) -> JobPage:
        """owner None: the jobs of all."""
        ...

    def queue_position(self, job_id: str) -> int | None:
        """1 is next. O(log n)."""
        ...

    def outlook(self, job_id: str) -> Outlook:
        """Position, mean duration and live workers in one round trip: what every poll of a queued job asks."""
        ...

    def queue_depths(self) -> dict[int, int]:
        """Waiting jobs by priority."""
        ...

    def count_by_status(self) -> dict[JobStatus, int]:
        """Jobs in the store, every status named."""
        ...

    def mean_run_s(self) -> float | None:
        """Smoothed duration of recent successful runs, for ETAs; None when there was none yet."""
        ...

    def events(self, job_id: str, *, after: str | None, block_ms: int = 0) -> list[JobEvent]:
        """History after an event id (None: from the start); waits up to block_ms for a first one (0: does not wait)."""
        ...

    # Inputs given by their addresses: fetched while the job is queued, before any worker can claim it
    def take_fetches(self, free: int, rules: ReceiverRules) -> list[Fetch]:
        """At most `free` due fetches, shared out by the rules, each held for rules.hold_s. The receiver of a job is the
        host of its video's address, or of its audio's where the video is none."""
        ...

    def renew_fetch(self, fetch: Fetch, hold_s: float, *, stage: str = "", progress: float = 0.0) -> bool:
        """Renew the hold; with a stage, tell progress as report() does. True: the caller wants the job canceled. Raises
        LeaseLostError where the job is over or another fetch holds it."""
        ...

    def reserve_fetch(self, fetch: Fetch, size_bytes: int, quota: ByteQuota) -> None:
        """What the fetched files hold from now on, beside what arrived with the job. Free again unless they become the
        job's. Raises StorageQuotaError, LeaseLostError."""
        ...

    def finish_fetch(self, fetch: Fetch, inputs: Mapping[str, InputRef]) -> Job:
        """The inputs are stored: into the waiting line and the outbox. Raises LeaseLostError, also where the job is
        over: then the files are nobody's, delete them."""
        ...

    def fail_fetch(self, fetch: Fetch, error: ErrorInfo, *, is_receivers: bool, retention_s: int) -> Job:
        """queued -> failed. is_receivers: the host of the address is at fault. Raises LeaseLostError."""
        ...

    def release_fetch(self, fetch: Fetch, *, pause_s: float, count_attempt: bool) -> Job:
        """Due again after pause_s. Raises LeaseLostError."""
        ...

    def drop_fetch(self, fetch: Fetch) -> None:
        """The job went on without this fetch, whose files are deleted. Nothing happens where another holds it."""
        ...

    def fetch_count(self) -> int:
        """Jobs whose inputs are still to be fetched."""
        ...

    # A worker's way through a job
    def claim(self, job_id: str, worker_id: str, lease_s: float) -> Lease | None:
        """Take a queued job. None: over, deleted, canceled, past its deadline (then failed here), or leased, or its
        inputs are still to be fetched."""
        ...

    def report(self, lease: Lease, *, stage: str, progress: float, lease_s: float) -> bool:
        """Renew the lease and tell progress (never falling). True: the caller wants the job canceled."""
        ...

    def renew(self, lease: Lease, lease_s: float) -> bool:
        """Renew without news. True as in report()."""
        ...

    def succeed(
        self,
        lease: Lease,
        *,
        result: ResultInfo,
        render: RenderInfo,
        evaluation: Sequence[MetricResult],
        retention_s: int,
    ) -> Job:
        """running -> succeeded. A cancel asked for before this moment wins: raises WrongStateError, then cancel()."""
        ...

    def fail(self, lease: Lease, error: ErrorInfo, *, retention_s: int) -> Job: ...

    def cancel(self, lease: Lease, *, retention_s: int) -> Job:
        """The worker stopped because of cancel_requested."""
        ...

    def release(self, lease: Lease, *, count_attempt: bool) -> Job:
        """Hand the job back to the line (shutdown, or a passing fault). Over max_attempts: failed as worker_lost."""
        ...

    def abandon(self, job_id: str, worker_id: str) -> int:
        """For the parent of a worker that died: its leases on the job and on segments of it run out now instead of
        later; requeue_lost() does the rest. Returns how many there were."""
        ...

    # What callers ask
    def request_cancel(self, job_id: str, *, retention_s: int) -> Job:
        """queued -> canceled at once; running -> flag for the worker; over -> unchanged."""
        ...

    def delete(self, job_id: str) -> None:
        """Forget a job that is over, with its events and deliveries. Raises WrongStateError while it is live."""
        ...

    # The janitor's rounds
    def unsent(self, older_than_s: float, limit: int = 100) -> list[Job]:
        """Jobs in the outbox that long."""
        ...

    def stranded(self, priority: int, older_than_s: float, limit: int = 100) -> list[Job]:
        """Queued jobs of a priority whose message was sent that long ago and that nobody claimed, the head of the line
        first: the broker would have handed that message out first, so where one is missing, it is that one's. While
        the broker has a message for each of them, they wait; else send again, and mark it."""
        ...

    def requeue_lost(self, limit: int = 100) -> list[Job]:
        """Running jobs whose lease ran out: back to the line and outbox, or failed as worker_lost. Returns them."""
        ...

    def fail_past_deadline(self, retention_s: int, limit: int = 100) -> list[Job]: ...

    def due_for_deletion(self, limit: int = 100) -> list[str]:
        """Ids of jobs past delete_at; the caller removes their files, then delete()s them."""
        ...

    # Webhooks. A transition whose event the job subscribed to creates the delivery in the same atomic step.
    def deliveries(self, job_id: str) -> list[Delivery]: ...

    def due_deliveries(self, limit: int = 100) -> list[str]:
        """Delivery ids whose time has come and that nobody holds."""
        ...

    def take_deliveries(self, free: int, rules: ReceiverRules) -> list[Delivery]:
        """At most `free` due deliveries, shared out by the rules, each held by its `holder` for rules.hold_s."""
        ...

    def record_attempt(
        self,
        delivery_id: str,
        attempt: DeliveryAttempt,
        *,
        state: DeliveryState,
        retry_in_s: float | None,
        holder: str = "",
        receiver_did: Literal["answered", "failed", ""] = "",
        breaker_s: float = 0.0,
    ) -> Delivery:
        """Append to the log; state `pending` with retry_in_s, `delivered` or `given_up`.

        holder: as the delivery was taken; another's outcome is logged, and decides only where the event arrived.
        receiver_did: `failed` three times in a row keeps the receiver from being tried for breaker_s, then for twice as
        long at each further failure, up to ten times that.
        """
        ...

    def redeliver(self, job_id: str, delivery_id: str = "") -> list[Delivery]:
        """Make one delivery, or the job's terminal one and any given up, due again under the same ids.

        Raises WrongStateError when there is none.
        """
        ...

    def find_delivery(self, delivery_id: str) -> Delivery:
        """Raises JobNotFoundError."""
        ...

    def undelivered(
        self, *, state: Literal["pending", "given_up"], cursor: str | None, limit: int, owner: str | None = None
    ) -> DeliveryPage:
        """Events that did not arrive, oldest first. owner None: of all. Raises ValueError as list_jobs."""
        ...

    def webhook_backlog(self) -> WebhookBacklog: ...

    def expire_deliveries(self, window_s: float, limit: int = 100) -> list[str]:
        """Give up what has been pending that long, also where its receiver was never tried again. Returns the ids."""
        ...

    def adopt_deliveries(self, limit: int = 1000) -> int:
        """Take over pending deliveries of a version that kept no lines for receivers. Returns how many."""
        ...

    def webhook_secret_state(self, owner: str) -> WebhookSecretState: ...

    def rotate_webhook_secret(self, owner: str, overlap_s: float) -> WebhookSecretState:
        """The next version signs from now on, the one until now beside it for overlap_s."""
        ...

    # Items of the janitor's rounds that fail
    def postpone(self, line: JanitorLine, item: str, *, first_s: float, longest_s: float) -> float | None:
        """An item of a line could not be dealt with: it is due again after first_s, twice that at the next failure, up
        to longest_s. Returns the pause in seconds; None where the item is gone."""
        ...

    def item_done(self, line: JanitorLine, item: str) -> None:
        """Forget the failures of an item."""
        ...

    def failing_items(self, limit: int = 100) -> dict[str, int]:
        """Some of what the janitor failed on: `line:item` -> how often."""
        ...

    def failing_count(self) -> int: ...

    # Files that arrive before their job, uploads and workers
    def add_arrival(self, job_id: str, within_s: float) -> None:
        """Files for a job with this id begin to arrive. create() makes them the job's own; where it never comes,
        they belong to nobody after within_s."""
        ...

    def renew_arrival(self, job_id: str, within_s: float) -> bool:
        """They still arrive. False: too late, their time was over."""
        ...

    def reserve(self, job_id: str, size_bytes: int, quota: ByteQuota) -> None:
        """What this arrival holds from now on, more or less than before. Raises StorageQuotaError, ArrivalLostError.
        A job keeps it, succeed() adds its result, and it is free again when arrival or job is dropped."""
        ...

    def stored_bytes(self, owner: str | None = None) -> int:
        """Held and reserved by this owner; None: by all."""
        ...

    def expired_arrivals(self, limit: int = 100) -> list[str]: ...

    def drop_arrival(self, job_id: str) -> None: ...

    def add_upload(self, upload_id: str, expires_at: datetime, owner: str = "") -> None: ...

    def upload_exists(self, upload_id: str, owner: str | None = None) -> bool:
        """owner None: whoever it belongs to."""
        ...

    def keep_upload(self, upload_id: str, at_least_s: float, owner: str | None = None) -> str | None:
        """It is being used: keep it so long from now. Returns its owner; None where there is none, or its time is
        over, or it is not this owner's."""
        ...

    def settle_upload(self, upload_id: str, arrival: str, size_bytes: int, at_least_s: float) -> bool:
        """The file that arrived under `arrival` becomes the upload's, with its bytes; kept as by keep_upload. False:
        too late."""
        ...

    def await_upload(self, upload_id: str, link_ends_at: datetime, most_bytes: int, quota: ByteQuota) -> None:
        """A file may come by a link that this service does not see used: most_bytes are reserved until it was
        measured. Raises StorageQuotaError."""
        ...

    def unmeasured_uploads(self, limit: int = 100) -> list[str]: ...

    def measure_upload(self, upload_id: str, size_bytes: int | None, again_s: float) -> None:
        """What lies under it now; None: nothing yet. It comes back after again_s, until its link has ended."""
        ...

    def take_upload(self, upload_id: str) -> None:
        """A job uses it now: it lives as long as that job; forget its expiry."""
        ...

    def expired_uploads(self, limit: int = 100) -> list[str]: ...

    def drop_upload(self, upload_id: str) -> None: ...

    def report_worker(self, worker: WorkerInfo, ttl_s: float) -> None: ...

    def forget_worker(self, worker_id: str) -> None: ...

    def workers(self) -> list[WorkerInfo]: ...

    def acquire_lock(self, name: str, owner: str, ttl_s: float) -> bool:
        """A named lock with an owner, re-entrant for the same owner (the janitor's round)."""
        ...

    def release_lock(self, name: str, owner: str) -> None:
        """Give it back early. Nothing happens where it is not the owner's any more."""
        ...

    def tally(self) -> Tally:
        """What happened so far, over all processes."""
        ...

    # Quarantine
    def quarantined(self, *, older_than_s: float = 0.0, limit: int = 100) -> list[QuarantinedRecord]:
        """Records that could not be read, found that long ago, oldest first."""
        ...

    def quarantine_size(self) -> int:
        """How many records are in quarantine."""
        ...

    def drop_quarantined(self, kind: RecordKind, record_id: str) -> None:
        """Forget the record and what hangs on it; the caller removes the files of a job before. Raises
        JobNotFoundError where it is not in quarantine."""
        ...

    # Callers
    def add_key(self, key: ApiKey) -> None: ...

    def find_key(self, key_id: str) -> ApiKey | None: ...

    def list_keys(self) -> list[ApiKey]: ...

    def revoke_key(self, key_id: str) -> ApiKey:
        """Raises KeyNotFoundError. Revoking again changes nothing."""
        ...

    def spend(self, key_id: str, per_minute: int) -> Allowance:
        """One request of the key, counted where it is allowed."""
        ...

    def live_jobs(self, owner: str) -> int:
        """Jobs of this owner that are not over."""
        ...

    def data_folder(self) -> Path | None:
        """Where the store keeps its data, if that is on this machine and it says so."""
        ...

    def ping(self) -> None:
        """Raises when the store can not be reached."""
        ...
