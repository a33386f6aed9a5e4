"""Values that the job store takes and returns, and its errors."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from jobs.models import Batch, Delivery, ErrorInfo, Job

# What the janitor works through, item by item
JanitorQueue = Literal["delete_at", "uploads", "arrivals", "split_files", "exported_files"]

# Kinds of records that can be in quarantine
RecordKind = Literal["job", "delivery", "account", "api_key", "worker"]

UndeliveredState = Literal["pending", "given_up"]


class JobNotFoundError(LookupError):
    """No job, or no delivery, with this id."""


class BatchNotFoundError(LookupError):
    """No batch with this id."""


class RecordUnreadableError(JobNotFoundError):
    """The job's record cannot be read and is in quarantine. A subclass of JobNotFoundError: a caller that does not
    distinguish the two treats the job as deleted."""

    def __init__(self, job_id: str, owner: str = "") -> None:
        super().__init__(f"The record of {job_id} cannot be read")
        self.owner = owner  # empty: unknown


class RecordNotStorableError(ValueError):
    """The value could not be read back if it were stored, so it was not stored."""


class IdempotencyConflictError(Exception):
    """The idempotency key was used for a different request."""


class WrongStateError(Exception):
    """The state of the job does not allow this, e.g. deleting a running job."""


class QuotaExceededError(Exception):
    """The owner has as many live jobs as allowed."""


class StorageQuotaError(Exception):
    """A byte quota is used up: the owner's if is_owners, else that of all owners together."""

    def __init__(self, *, is_owners: bool) -> None:
        super().__init__("The storage quota is used up")
        self.is_owners = is_owners


class ArrivalLostError(Exception):
    """The files of a submission arrived so slowly that the janitor discarded them."""


class KeyNotFoundError(LookupError):
    """No API key with this id."""


class KeyRevokedError(Exception):
    """The API key is revoked, so it cannot be rotated."""


class TooManyKeysError(Exception):
    """The account has as many valid keys as allowed."""


class UnknownCursorError(LookupError):
    """No page returned this cursor, or what it names is gone. index: the kind of records that are listed."""

    def __init__(self, index: str) -> None:
        super().__init__("It was not returned by a page, or what it names is gone; start again without it")
        self.index = index


class AccountNotFoundError(LookupError):
    """No account with this id."""


class LeaseLostError(Exception):
    """The job is over or leased to another worker. Stop, and publish nothing."""


@dataclass(frozen=True)
class Lease:
    """Exclusive permission to work on a job until it expires."""

    job_id: str
    worker_id: str
    fence: int  # increases with every claim of the job; the store accepts only the newest
    attempt: int


@dataclass(frozen=True)
class IdempotencyKey:
    key: str
    fingerprint: str  # hash of the whole request, files included
    ttl_s: int


@dataclass(frozen=True)
class Origin:
    """Where a submission came from."""

    owner: str = ""  # id of an account; empty if the service requires no keys
    live_jobs: int = 0  # most unfinished jobs that the owner may have
    request_id: str = ""  # for finding its log lines
    traceparent: str = ""  # W3C trace context


UNOWNED = Origin()


@dataclass(frozen=True)
class ByteQuota:
    """Upper bounds on stored bytes."""

    owner: str  # empty: only of_all applies
    of_owner: int
    of_all: int


@dataclass(frozen=True)
class Allowance:
    """Decision of the rate limiter about one request."""

    is_allowed: bool
    left: int  # further requests that would be allowed now
    retry_in_s: float  # until one more is allowed
    full_in_s: float  # until the bucket is full


@dataclass(frozen=True)
class QueueEstimate:
    """What an ETA is computed from."""

    position: int | None  # 1 is next; None: not queued
    mean_run_s: float | None  # smoothed duration of recent successful runs; None: unknown
    workers: int  # live workers


@dataclass(frozen=True)
class Durations:
    """A histogram."""

    buckets: tuple[tuple[float, int], ...]  # (upper bound in s, number of durations up to it); the last bound is inf
    sum_s: float


@dataclass(frozen=True)
class Tally:
    """Counters since the store was created, over all processes."""

    # kind -> name -> count. Kinds: finished (by status), failed (by code), requeued (by reason), webhook (by outcome
    # of an attempt), webhook_breaker, face_cache, quarantined (by kind of record)
    counts: dict[str, dict[str, int]]
    # kind -> name -> histogram. Kinds: wait (by priority), stage, run
    durations: dict[str, dict[str, Durations]]


@dataclass(frozen=True)
class Created:
    job: Job
    is_new: bool  # False: an idempotency key led to an existing job


@dataclass(frozen=True)
class CreatedBatch:
    batch: Batch
    is_new: bool  # False: an idempotency key led to an existing batch


@dataclass(frozen=True)
class QuarantinedRecord:
    """A record that could not be read."""

    kind: RecordKind
    id: str
    owner: str  # of a job; empty if unknown
    reason: str  # type and place of the fault, without any content
    at: datetime  # when it was found


@dataclass(frozen=True)
class JobPage:
    jobs: list[Job]  # newest first
    next_cursor: str | None  # None: this is the last page


@dataclass(frozen=True)
class BatchPage:
    batches: list[Batch]  # newest first
    next_cursor: str | None  # None: this is the last page


@dataclass(frozen=True)
class DeliveryPage:
    deliveries: list[Delivery]  # oldest first
    next_cursor: str | None  # None: this is the last page


@dataclass(frozen=True)
class ReceiverRules:
    """How slots for deliveries and fetches are shared among receivers. A receiver is one owner's host and port.

    Receivers that have not answered yet, or failed last, get three quarters of the slots together. An owner holds no
    more slots than it leaves free.
    """

    slots: int  # concurrent requests of one process
    hold_s: float  # after this, the item of a holder that died is due again
    per_receiver: int = 8  # concurrent requests to a receiver that answers
    per_untrusted: int = 1  # concurrent requests to a receiver that has not answered yet, or failed last


@dataclass(frozen=True)
class WebhookBacklog:
    pending: int  # events still to be delivered
    due: int  # pending events whose time has come and that no process is sending
    given_up: int


@dataclass(frozen=True)
class WebhookSecretState:
    version: int = 1  # the version that signs; the first is 1
    previous: int | None = None  # signs as well until previous_until
    previous_until: datetime | None = None


@dataclass(frozen=True)
class Fetch:
    """The right to fetch a job's inputs."""

    job: Job  # when the fetch was taken; if it is over, what an earlier fetch stored must be deleted
    holder: str  # token of this fetch
    fence: int  # grows with every fetch of the job
    attempt: int  # how many fetches of the job counted, from 1
    last_error: ErrorInfo | None = None  # of the last attempt that ended by itself

    @property
    def job_id(self) -> str:
        return self.job.id
