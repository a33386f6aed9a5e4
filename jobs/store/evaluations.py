"""Evaluations that follow their job (`evaluate_policy` is `after`): leased on their own, and done exactly once.

The worker that succeeded holds the first lease, from the same atomic step on. If it dies or hands the evaluation back,
the janitor sends a message, and any worker continues from what is in the object store. Every transition is atomic and
fenced, as in jobs/store/jobs.py; deleting the job ends its evaluation.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.models import Job, MetricResult
from jobs.names import new_delivery_id
from jobs.store.base import RedisBase
from jobs.store.quarantine import Quarantine
from jobs.store.records import metrics_json, pairs
from jobs.store.types import JobNotFoundError

# Of the lease that `Jobs.succeed` gives.
FIRST_FENCE = 1


@dataclass(frozen=True)
class EvaluationLease:
    """Exclusive permission to evaluate the result of a job."""

    job_id: str
    worker_id: str
    fence: int  # increases with every claim
    attempt: int  # how many claims counted, from 1


class Evaluations:
    """In Redis: fields of the job's record, and one sorted set."""

    def __init__(self, base: RedisBase, quarantine: Quarantine) -> None:
        self._redis, self._quarantine = base, quarantine

    def claim(self, job_id: str, worker_id: str, lease_s: float) -> EvaluationLease | None:
        """None: another worker holds it, it is done, or the job was deleted."""
        reply = self._redis.call_optional(
            "claim_evaluation", job_id, worker_id, int(lease_s * 1000), secrets.token_hex(8)
        )
        return None if reply is None else EvaluationLease(job_id, worker_id, int(reply[0]), int(reply[1]))

    def renew(self, lease: EvaluationLease, lease_s: float) -> None:
        """Raises LeaseLostError."""
        self._redis.call("renew_evaluation", lease.job_id, lease.fence, int(lease_s * 1000))

    def finish(self, lease: EvaluationLease, evaluation: Sequence[MetricResult]) -> Job:
        """Store the metrics, with the event and the webhook `job.evaluated`. Raises LeaseLostError."""
        (fields,) = self._redis.call(
            "finish_evaluation", lease.job_id, lease.fence, metrics_json(evaluation), new_delivery_id()
        )
        return self._quarantine.readable_job(lease.job_id, pairs(fields))

    def release(self, lease: EvaluationLease, *, count_attempt: bool) -> None:
        """Return it undone. Does nothing if the lease was lost."""
        self._redis.call_optional("release_evaluation", lease.job_id, lease.fence, int(count_attempt))

    def take_due(self, *, pause_s: float, longest_s: float, limit: int = 100) -> list[Job]:
        """Jobs whose evaluation nobody works on, for which a message is to be sent now. Each is given again after
        pause_s, doubled each time up to longest_s, unless a worker claims it before."""
        jobs = []
        for job_id in self._redis.due("evaluations", limit):
            reply = self._redis.call_optional("due_evaluation", job_id, int(pause_s * 1000), int(longest_s * 1000))
            if reply is not None:
                try:
                    jobs.append(self._quarantine.readable_job(job_id, pairs(reply[0])))
                except JobNotFoundError:
                    continue
        return jobs
