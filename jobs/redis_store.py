"""The job store on Redis: one hash a job, sorted sets for every question that is asked, one script a transition.

Keys (after the prefix), all bounded by the number of jobs kept:
    job:<id>               everything about a job; the asked-for part is one JSON text that never changes
    created, status:<s>    listing, by creation number; with :<key id> the same for the jobs of one API key
    waiting                the line, by priority class and creation number: its rank is the queue position
    outbox, sent           queued jobs whose message is still to be sent, and when a sent one went out
    leases, deadlines, delete_at, uploads, workers, webhooks_due    by the time at which something falls due
    events:<id>            a stream a job
    split:<id>, segments:<id>, split_files      a job that several workers render, until it is over
    delivery:<id>, attempts:<id>, job_deliveries:<job>              webhooks; how they are shared out: lua/prelude.lua
    deliveries:<state>     what was not delivered, by number; with :<key id> the same for one API key
    webhook_receiver:<r>   how a receiver did, for a week; fetch_receiver:<r> the same of a host of inputs
    fetches_due            jobs whose inputs are still to be fetched; how they are shared out: lua/prelude.lua
    webhook_secret:<id>    which version of a key's webhook secret signs
    janitor_failures       what the janitor could not delete yet, and how often it tried
    held, holders          bytes that a job, an arrival or an upload holds in the object store, and whose they are
    stored                 the sums of each owner and of all, changed in the same step
    unmeasured, link_ends  uploads by presigned links, whose size the janitor looks up
    api_keys, api_key:<id>, rate:<id>, live:<id>    callers, what they spent, their jobs that are not over
    quarantine, quarantine_notes, quarantined:<id>  records that could not be read, by when; what is known of each
    idempotency:<hash>, lock:<name>, worker:<id>                    live as long as their ttl
    seq, mean_run_ms       a counter, a smoothed duration
    counters               what happened so far, for /metrics
"""

from __future__ import annotations

from jobs.redis_counters import Counters
from jobs.redis_fetches import Fetches
from jobs.redis_keys import KeyRing
from jobs.redis_leases import JobLeases
from jobs.redis_registry import Registry
from jobs.redis_segments import Splits
from jobs.redis_webhooks import WebhookLog


class RedisJobStore(JobLeases, Fetches, Splits, WebhookLog, Registry, KeyRing, Counters):
    """Implements jobs.store.JobStore. Thread-safe; keep one a process."""
