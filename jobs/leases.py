"""The right to work on something, and its loss."""

from __future__ import annotations

from dataclasses import dataclass


class LeaseLostError(Exception):
    """The job is over, or another worker holds it now. Stop, and publish nothing."""


@dataclass(frozen=True)
class Lease:
    """The right to work on a job. fence: grows with every claim of the job; the store accepts only the newest."""

    job_id: str
    worker_id: str
    fence: int
    attempt: int
