"""What accounts used: totals by month (UTC), which the Lua scripts add up in the step in which a job ends.

They outlive the jobs, and are kept for 25 months.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime

from pydantic import Field

from jobs.models import FrozenModel, JobStatus
from jobs.store.base import RedisBase

MAX_MONTHS = 24


class JobOutcomes(FrozenModel):
    """Jobs that ended."""

    succeeded: int
    failed: int
    canceled: int


class MonthUsage(FrozenModel):
    """Totals of one account and month."""

    month: str = Field(description="Year and month in UTC", examples=["2026-11"])
    jobs: JobOutcomes
    video_s: float = Field(description="Seconds of finished video")
    result_bytes: int = Field(description="Bytes of finished video")
    worker_s: float = Field(
        description="Seconds that render workers worked: every attempt, also those that failed, were canceled or were "
        "returned; segments of split jobs; evaluations after the job"
    )
    gpu_s: float = Field(description="The part of `worker_s` on workers with a CUDA device")


class UsageTotals:
    def __init__(self, base: RedisBase) -> None:
        self._redis = base

    def months(self, owners: Sequence[str], count: int) -> list[list[MonthUsage]]:
        """For each owner the last `count` months, the current one first. owner '': jobs without an account. Raises
        ValueError for a count outside 1..24."""
        if not 1 <= count <= MAX_MONTHS:
            raise ValueError(f"count is {count}; it must be 1 to {MAX_MONTHS}")
        months = list(_months_back(datetime.fromtimestamp(self._redis.now_ms() / 1000, UTC).date(), count))
        with self._redis.client.pipeline(transaction=False) as pipe:
            for owner in owners:
                for month in months:
                    pipe.hgetall(self._redis.key("usage", f"{owner}:{month}"))
            rows: Iterator[dict[str, str]] = iter(pipe.execute())
        return [[_usage_of(month, next(rows)) for month in months] for _ in owners]


def _usage_of(month: str, fields: dict[str, str]) -> MonthUsage:
    def number(name: str) -> int:
        return int(fields.get(name, 0))

    return MonthUsage(
        month=month,
        jobs=JobOutcomes(
            succeeded=number(JobStatus.SUCCEEDED), failed=number(JobStatus.FAILED), canceled=number(JobStatus.CANCELED)
        ),
        video_s=number("video_ms") / 1000,
        result_bytes=number("result_bytes"),
        worker_s=number("worker_ms") / 1000,
        gpu_s=number("gpu_ms") / 1000,
    )


def _months_back(day: date, count: int) -> Iterator[str]:
    first = day.year * 12 + day.month - 1
    for number in range(first, first - count, -1):
        yield f"{number // 12:04d}-{number % 12 + 1:02d}"
