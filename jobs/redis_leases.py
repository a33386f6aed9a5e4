"""A worker's way through a job, and the janitor's rounds over those that went astray."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import redis

from jobs.errors import ERROR_CODES
from jobs.ids import new_delivery_id
from jobs.models import ErrorInfo, Job, MetricResult, RenderInfo, ResultInfo
from jobs.redis_jobs import JobRecords, class_scores
from jobs.redis_records import metrics_json, pairs, stored_json
from jobs.store import Lease, RecordUnreadableError


def _error_json(code: str, message: str) -> str:
    return ErrorInfo(code=code, message=message, retryable=ERROR_CODES[code].retryable).model_dump_json()


_LOST = _error_json("worker_lost", "The worker died or gave up in every attempt that was allowed.")
_TOO_LATE = _error_json("deadline_exceeded", "The job was still queued when its expires_in_s had passed.")


class JobLeases(JobRecords):
    def claim(self, job_id: str, worker_id: str, lease_s: float) -> Lease | None:
        reply = self._call(
            "claim",
            job_id,
            worker_id,
            int(lease_s * 1000),
            secrets.token_hex(8),
            new_delivery_id(),
            self._retention_ms,
            _TOO_LATE,
        )
        return None if reply is None else Lease(job_id, worker_id, fence=int(reply[0]), attempt=int(reply[1]))

    def report(self, lease: Lease, *, stage: str, progress: float, lease_s: float) -> bool:
        if not stage or not 0.0 <= progress <= 1.0:
            raise ValueError(f"A report needs a stage and a progress of 0..1, not {stage!r} and {progress!r}")
        return self._renew(lease, lease_s, stage, repr(float(progress)))

    def renew(self, lease: Lease, lease_s: float) -> bool:
        return self._renew(lease, lease_s, "", "")

    def _renew(self, lease: Lease, lease_s: float, stage: str, progress: str) -> bool:
        lease_ms = int(lease_s * 1000)
        (cancel,) = self._call("report", *_who(lease), lease_ms, stage, progress, new_delivery_id())
        return cancel == "1"

    def succeed(
        self,
        lease: Lease,
        *,
        result: ResultInfo,
        render: RenderInfo,
        evaluation: Sequence[MetricResult],
        retention_s: int,
    ) -> Job:
        outcome = (stored_json(result), stored_json(render), metrics_json(evaluation), "")
        return self._finish(lease, "succeed", retention_s, outcome)

    def fail(self, lease: Lease, error: ErrorInfo, *, retention_s: int) -> Job:
        return self._finish(lease, "fail", retention_s, ("", "", "", stored_json(error)))

    def cancel(self, lease: Lease, *, retention_s: int) -> Job:
        return self._finish(lease, "cancel", retention_s, ("", "", "", ""))

    def _finish(self, lease: Lease, verb: str, retention_s: int, outcome: tuple[str, str, str, str]) -> Job:
        (fields,) = self._call("finish", *_who(lease), verb, retention_s * 1000, new_delivery_id(), *outcome)
        return self._job(lease.job_id, pairs(fields))

    def release(self, lease: Lease, *, count_attempt: bool) -> Job:
        (fields,) = self._call(
            "release", *_who(lease), int(count_attempt), self._retention_ms, new_delivery_id(), _LOST
        )
        return self._job(lease.job_id, pairs(fields))

    def abandon(self, job_id: str, worker_id: str) -> int:
        (held,) = self._call("abandon", job_id, worker_id)
        return int(held)

    # The janitor's rounds

    def unsent(self, older_than_s: float, limit: int = 100) -> list[Job]:
        before_ms = self._now_ms() - int(older_than_s * 1000)
        return self._read_line("outbox", self._due("outbox", limit, before_ms=before_ms))

    def stranded(self, priority: int, older_than_s: float, limit: int = 100) -> list[Job]:
        before_ms = self._now_ms() - int(older_than_s * 1000)
        head = self._client.zrangebyscore(self._key("waiting"), *class_scores(priority), start=0, num=limit)
        with self._client.pipeline(transaction=False) as pipe:
            for job_id in head:
                pipe.zscore(self._key("sent"), job_id)
            sent_ms = pipe.execute()
        return self._read_line(
            "waiting",
            [job_id for job_id, at_ms in zip(head, sent_ms, strict=True) if at_ms is not None and at_ms <= before_ms],
        )

    def _read_line(self, line: str, job_ids: list[str]) -> list[Job]:
        """Ids without a readable job leave the line: at its head they would keep everybody else out of the limit."""
        jobs = self._read_all(job_ids)
        if gone := set(job_ids) - {job.id for job in jobs}:
            self._client.zrem(self._key(line), *gone)
        return jobs

    def requeue_lost(self, limit: int = 100) -> list[Job]:
        return self._expire("leases", "expire_lease", self._retention_ms, _LOST, limit)

    def fail_past_deadline(self, retention_s: int, limit: int = 100) -> list[Job]:
        return self._expire("deadlines", "expire_deadline", retention_s * 1000, _TOO_LATE, limit)

    def _expire(self, line: str, script: str, retention_ms: int, error_json: str, limit: int) -> list[Job]:
        """One atomic step a job: a round that is cut short has done whole jobs. A job whose record is broken goes into
        quarantine, and the round goes on."""
        jobs = []
        for job_id in self._due(line, limit):
            try:
                reply = self._call(script, job_id, retention_ms, new_delivery_id(), error_json)
                if reply is not None:
                    jobs.append(self._job(job_id, pairs(reply[0])))
            except RecordUnreadableError:
                continue
            except (redis.ResponseError, UnicodeDecodeError) as fault:
                self._blame(job_id, fault)
        return jobs

    def due_for_deletion(self, limit: int = 100) -> list[str]:
        return self._due("delete_at", limit)


def _who(lease: Lease) -> tuple[str, int, str]:
    return lease.job_id, lease.fence, lease.worker_id
