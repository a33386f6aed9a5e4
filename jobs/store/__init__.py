"""The job store on Redis: the single source of truth about jobs. One hash per job, sorted sets as indexes and queues,
one Lua script per transition. Times are those of the clock of Redis.

Keys (after the prefix), all bounded by the number of jobs kept:
    job:<id>               everything about a job; its spec is one JSON text that never changes
    created, status:<s>    listing, by creation number; with :<account> the same for the jobs of one account
    waiting                the queue, by priority class and creation number: the rank is the queue position
    outbox, sent           queued jobs whose message is still to be sent, and when a sent one was sent
    leases, deadlines, delete_at, uploads, workers, webhooks_due    by the time at which something falls due
    events:<id>            a stream per job
    evaluations            jobs that succeeded before their evaluation, by the time at which its lease ends
    split:<id>, segments:<id>, split_files      a job that several workers render, until it is over
    delivery:<id>, attempts:<id>, job_deliveries:<job>              webhooks; how slots are shared: lua/prelude.lua
    deliveries:<state>     undelivered events, by number; with :<account> the same for one account
    webhook_receiver:<r>   health of a receiver, for a week; fetch_receiver:<r> the same of a host of inputs
    fetches_due            jobs whose inputs are not fetched yet; how slots are shared: lua/prelude.lua
    webhook_secret:<id>    which version of an account's webhook secret signs
    export:<id>, exports_due        a result on its way to where its caller wants it; shared as fetches are
    exported, exported_files        copies of deleted jobs that the janitor still has to delete
    janitor_failures       what the janitor could not delete yet, and how often it tried
    held, holders          bytes that a job, an arrival or an upload holds in the object store, and their owner
    stored                 the sums per owner and of all, changed in the same step
    unmeasured, link_ends  uploads by presigned links, whose size the janitor looks up
    accounts, account:<id>, rate:<id>, live:<id>    owners, their rate limits, their jobs that are not over
    api_keys, api_key:<id>, account_keys:<account>  keys, of all and of one account, by the time of their creation
    usage:<account>:<month>                         totals of an account, kept for 25 months
    quarantine, quarantine_notes, quarantined:<id>  unreadable records, by time; their owner and fault; their content
    idempotency:<hash>, lock:<name>, worker:<id>                    expire by their ttl
    batch:<id>             a batch; batch_items: specs that are not jobs yet; batch_jobs: its jobs, by creation number;
                           batch_live: those that are not over, with their index; batch_failures: by index
    batches, batches:<account>              all of them, by creation number
    batch_owners, batches_open:<owner>      who has batches that are not over, and which, by creation number
    batches_over           batches that are over, by the time at which they are deleted
    batch_waiting          items that are not jobs yet, by owner
    seq, mean_run_ms       a counter, a smoothed duration
    counters               counts and histograms for /metrics
"""

from __future__ import annotations

from pathlib import Path

import redis

from jobs.store.base import RedisBase
from jobs.store.batches import Batches
from jobs.store.jobs import Jobs
from jobs.store.keys import Accounts, Keys, UsageTotals
from jobs.store.leases import Evaluations, SegmentLease, SegmentOutcome, Segments, SplitPlan, SplitState
from jobs.store.operations import Counters, JanitorFailures, Locks, Workers
from jobs.store.quarantine import Quarantine
from jobs.store.transfers import Exports, Fetches
from jobs.store.types import (
    UNOWNED,
    AccountNotFoundError,
    Allowance,
    ArrivalLostError,
    BatchNotFoundError,
    BatchPage,
    ByteQuota,
    Created,
    CreatedBatch,
    DeliveryPage,
    Durations,
    Fetch,
    IdempotencyConflictError,
    IdempotencyKey,
    JanitorQueue,
    JobNotFoundError,
    JobPage,
    KeyNotFoundError,
    KeyRevokedError,
    Lease,
    LeaseLostError,
    Origin,
    QuarantinedRecord,
    QueueEstimate,
    QuotaExceededError,
    ReceiverRules,
    RecordKind,
    RecordNotStorableError,
    RecordUnreadableError,
    StorageQuotaError,
    Tally,
    TooManyKeysError,
    UndeliveredState,
    UnknownCursorError,
    WebhookBacklog,
    WebhookSecretState,
    WrongStateError,
)
from jobs.store.uploads import Uploads
from jobs.store.webhooks import Webhooks

__all__ = [
    "UNOWNED",
    "AccountNotFoundError",
    "Allowance",
    "ArrivalLostError",
    "BatchNotFoundError",
    "BatchPage",
    "ByteQuota",
    "Created",
    "CreatedBatch",
    "DeliveryPage",
    "Durations",
    "Fetch",
    "IdempotencyConflictError",
    "IdempotencyKey",
    "JanitorQueue",
    "JobNotFoundError",
    "JobPage",
    "JobStore",
    "KeyNotFoundError",
    "KeyRevokedError",
    "Lease",
    "LeaseLostError",
    "Origin",
    "QuarantinedRecord",
    "QueueEstimate",
    "QuotaExceededError",
    "ReceiverRules",
    "RecordKind",
    "RecordNotStorableError",
    "RecordUnreadableError",
    "SegmentLease",
    "SegmentOutcome",
    "SplitPlan",
    "SplitState",
    "StorageQuotaError",
    "Tally",
    "TooManyKeysError",
    "UndeliveredState",
    "UnknownCursorError",
    "WebhookBacklog",
    "WebhookSecretState",
    "WrongStateError",
]

DEFAULT_RETENTION_S = 7 * 86400
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})


class JobStore:
    """Thread-safe; keep one per process."""

    def __init__(
        self, client: redis.Redis, prefix: str = "{retalking}:", *, retention_s: int = DEFAULT_RETENTION_S
    ) -> None:
        """client, prefix: see RedisBase. retention_s: see Jobs."""
        self.redis = RedisBase(client, prefix)
        self.quarantine = Quarantine(self.redis)
        self.jobs = Jobs(self.redis, self.quarantine, retention_s)
        self.batches = Batches(self.redis, retention_s)
        self.exports = Exports(self.redis)
        self.fetches = Fetches(self.redis, self.quarantine)
        self.segments = Segments(self.redis)
        self.evaluations = Evaluations(self.redis, self.quarantine)
        self.webhooks = Webhooks(self.redis, self.quarantine)
        self.uploads = Uploads(self.redis)
        self.accounts = Accounts(self.redis, self.quarantine)
        self.keys = Keys(self.redis, self.quarantine)
        self.usage = UsageTotals(self.redis)
        self.workers = Workers(self.redis, self.quarantine)
        self.locks = Locks(self.redis)
        self.janitor_failures = JanitorFailures(self.redis)
        self.counters = Counters(self.redis)

    def ping(self) -> None:
        """Raises redis.RedisError if the store cannot be reached."""
        self.redis.client.ping()

    def data_folder(self) -> Path | None:
        """Where Redis keeps its data, if it runs on this machine and reports the folder."""
        if self.redis.client.connection_pool.connection_kwargs.get("host", "localhost") not in _THIS_MACHINE:
            return None
        try:
            folder = self.redis.client.config_get("dir").get("dir")
        except redis.RedisError:
            return None
        return Path(folder) if folder and Path(folder).is_dir() else None
