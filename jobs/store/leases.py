"""Leases below those of jobs: of the segments of a split job, and of evaluations that follow their job.

Every transition is atomic and fenced, as in jobs/store/jobs.py. A split ends with its job, in the same atomic step, and
deleting the job ends its evaluation.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from jobs.models import Job, MetricResult, RenderNote
from jobs.names import new_delivery_id
from jobs.store.base import RedisBase
from jobs.store.quarantine import Quarantine
from jobs.store.records import metrics_json, pairs, stored_json
from jobs.store.types import JobNotFoundError, Lease


class SplitPlan(BaseModel):
    """What helpers must know."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    engine: str
    renderer: str = Field(description="Only workers with an equal value may help: others would draw differently")
    frames: int = Field(ge=1)
    segments: int = Field(ge=1, description="Number of segments")
    scene_key: str
    video_key: str
    analyzed: float = Field(ge=0, le=1, description="Share of the analysis in the job's render")


class SegmentOutcome(BaseModel):
    """A finished segment."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str = Field(description="Object key of its video")
    worker: str
    stage_times_s: dict[str, float] = Field(default_factory=dict, description="As reported by the engine")
    notes: list[RenderNote] = Field(default_factory=list, description="As reported by the engine")


@dataclass(frozen=True)
class SegmentLease:
    """Exclusive permission to render one segment."""

    job_id: str
    worker_id: str
    number: int
    fence: int  # increases with every claim of any segment of the job
    attempt: int  # how often this segment was begun


@dataclass(frozen=True)
class SplitState:
    plan: SplitPlan
    progress: float  # 0..1, of all segments together
    waiting: int  # segments that a helper could claim now
    done: dict[int, SegmentOutcome]  # by number

    @property
    def is_complete(self) -> bool:
        return len(self.done) == self.plan.segments


class Segments:
    """Split jobs: jobs whose segments several workers render. A plan, and segments that are leased one by one.

    The worker that holds the job's lease (its owner) analyzes the clip, writes the plan, renders segments like
    everybody else, waits for the rest and joins them. A segment that a helper lost or released after an attempt is left
    to the owner: its attempts are counted, so a segment that kills its worker ends like a job that does.

    In Redis: one hash and one sorted set of segments per split job."""

    def __init__(self, base: RedisBase) -> None:
        self._redis = base

    def open(self, lease: Lease, plan: SplitPlan) -> None:
        """Make all segments claimable; an earlier split of the job is forgotten. Raises LeaseLostError."""
        self._redis.call("open_split", lease.job_id, lease.fence, lease.worker_id, stored_json(plan), plan.segments)

    def state(self, job_id: str) -> SplitState | None:
        """None: the job is not split, or over."""
        with self._redis.client.pipeline() as pipe:
            pipe.hgetall(self._redis.key("split", job_id))
            pipe.zcount(self._redis.key("segments", job_id), 0, 0)
            fields, waiting = pipe.execute()
        if not fields:
            return None
        plan = SplitPlan.model_validate_json(fields["plan"])
        progress = [float(fields.get(f"progress:{number}", "0")) for number in range(plan.segments)]
        done = {
            number: SegmentOutcome.model_validate_json(fields[f"done:{number}"])
            for number in range(plan.segments)
            if f"done:{number}" in fields
        }
        return SplitState(plan, sum(progress) / plan.segments, waiting, done)

    def claim(self, job_id: str, worker_id: str, lease_s: float, owner: Lease | None = None) -> SegmentLease | None:
        """Lease a segment that nobody works on. Helpers get only segments that were never begun, the owner any.

        None: there is none, the job is over, or its cancellation was requested. Raises LeaseLostError if `owner` no
        longer holds the job.
        """
        owner_fence = "" if owner is None else owner.fence
        token = secrets.token_hex(8)
        reply = self._redis.call_optional("claim_segment", job_id, worker_id, int(lease_s * 1000), token, owner_fence)
        return None if reply is None else SegmentLease(job_id, worker_id, *(int(each) for each in reply))

    def report(self, lease: SegmentLease, progress: float | None, lease_s: float) -> bool:
        """Renew the lease and, unless None, store the segment's progress (0..1). Returns whether cancellation was
        requested. Raises LeaseLostError if the segment or the job is over or leased to another worker."""
        if progress is not None and not 0.0 <= progress <= 1.0:
            raise ValueError(f"The progress of a segment is 0..1, not {progress!r}")
        text = "" if progress is None else repr(float(progress))
        (cancel,) = self._redis.call("report_segment", *_identity(lease), int(lease_s * 1000), text)
        return bool(cancel == "1")

    def finish(self, lease: SegmentLease, outcome: SegmentOutcome) -> None:
        """Raises LeaseLostError: then nobody uses the segment's file, delete it."""
        self._redis.call("finish_segment", *_identity(lease), stored_json(outcome))

    def release(self, lease: SegmentLease, *, count_attempt: bool) -> None:
        """Return it unfinished. Does nothing if the lease was lost."""
        self._redis.call_optional("release_segment", *_identity(lease), int(count_attempt))

    def ended(self, limit: int = 100) -> list[str]:
        """Jobs that are over and whose segment files are to be deleted."""
        return self._redis.due("split_files", limit)

    def drop(self, job_id: str) -> None:
        """The segment files are deleted."""
        self._redis.client.zrem(self._redis.key("split_files"), job_id)


def _identity(lease: SegmentLease) -> tuple[str, int, int]:
    return lease.job_id, lease.number, lease.fence


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
    """Evaluations that follow their job (`evaluate_policy` is `after`): leased on their own, and done exactly once.

    The worker that succeeded holds the first lease, from the same atomic step on. If it dies or hands the evaluation
    back, the janitor sends a message, and any worker continues from what is in the object store.

    In Redis: fields of the job's record, and one sorted set."""

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
