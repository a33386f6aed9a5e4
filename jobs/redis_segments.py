"""Jobs that several workers render: one hash and one line of segments a job, gone with the job's end."""

from __future__ import annotations

import secrets

from jobs.leases import Lease
from jobs.redis_base import RedisPart
from jobs.redis_records import stored_json
from jobs.segments import SegmentLease, SegmentOutcome, SplitPlan, SplitState


class Splits(RedisPart):
    def open_split(self, lease: Lease, plan: SplitPlan) -> None:
        self._call("open_split", lease.job_id, lease.fence, lease.worker_id, stored_json(plan), plan.segments)

    def split_state(self, job_id: str) -> SplitState | None:
        with self._client.pipeline() as pipe:
            pipe.hgetall(self._key("split", job_id))
            pipe.zcount(self._key("segments", job_id), 0, 0)
            fields, waiting = pipe.execute()
        if not fields:
            return None
        plan = SplitPlan.model_validate_json(fields["plan"])
        told = [float(fields.get(f"progress:{number}", "0")) for number in range(plan.segments)]
        done = {
            number: SegmentOutcome.model_validate_json(fields[f"done:{number}"])
            for number in range(plan.segments)
            if f"done:{number}" in fields
        }
        return SplitState(plan, sum(told) / plan.segments, waiting, done)

    def claim_segment(
        self, job_id: str, worker_id: str, lease_s: float, owner: Lease | None = None
    ) -> SegmentLease | None:
        owner_fence = "" if owner is None else owner.fence
        reply = self._call("claim_segment", job_id, worker_id, int(lease_s * 1000), secrets.token_hex(8), owner_fence)
        return None if reply is None else SegmentLease(job_id, worker_id, *(int(each) for each in reply))

    def report_segment(self, lease: SegmentLease, progress: float | None, lease_s: float) -> bool:
        if progress is not None and not 0.0 <= progress <= 1.0:
            raise ValueError(f"A segment's progress is 0..1, not {progress!r}")
        told = "" if progress is None else repr(float(progress))
        (cancel,) = self._call("report_segment", *_what(lease), int(lease_s * 1000), told)
        return cancel == "1"

    def finish_segment(self, lease: SegmentLease, outcome: SegmentOutcome) -> None:
        self._call("finish_segment", *_what(lease), stored_json(outcome))

    def release_segment(self, lease: SegmentLease, *, count_attempt: bool) -> None:
        self._call("release_segment", *_what(lease), int(count_attempt))

    def ended_splits(self, limit: int = 100) -> list[str]:
        return self._due("split_files", limit)

    def drop_split(self, job_id: str) -> None:
        self._client.zrem(self._key("split_files"), job_id)


def _what(lease: SegmentLease) -> tuple[str, int, int]:
    return lease.job_id, lease.number, lease.fence
