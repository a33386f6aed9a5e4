"""Waiting for the end of a job: what is told on the way, and how long it may take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from retalking_client.errors import WaitTimeoutError
from retalking_client.models import Job, JobEvent

POLL_FIRST_S = 1.0
POLL_LONGEST_S = 5.0
# A stream gives a sign of life every 15 s. Nearer to the deadline than that, polling keeps it better.
_NEAR_END_S = 20.0


@dataclass(frozen=True)
class Progress:
    """Where a job stands. stage: of a running job, `fetch` also of a queued one, else None. fraction: 0..1 of the whole
    job. queue_position and eta_s are known only while polling."""

    job_id: str
    status: str
    stage: str | None
    fraction: float
    queue_position: int | None = None
    eta_s: float | None = None


ProgressHook = Callable[[Progress], None]


class Watch:
    """The bookkeeping of one wait, for either kind of client. timeout_s None: as long as it takes."""

    def __init__(self, job_id: str, timeout_s: float | None, hook: ProgressHook | None) -> None:
        self._job_id, self._timeout_s, self._hook = job_id, timeout_s, hook
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._told: Progress | None = None
        self._pause_s = POLL_FIRST_S

    @property
    def left_s(self) -> float | None:
        return None if self._deadline_s is None else self._deadline_s - time.monotonic()

    @property
    def is_near_end(self) -> bool:
        """True when it is time to leave the stream and poll."""
        left_s = self.left_s
        return left_s is not None and left_s < _NEAR_END_S

    def tell_event(self, event: JobEvent | None) -> None:
        if event is not None:
            self._tell(Progress(self._job_id, event.status, event.stage, event.progress))

    def tell_job(self, job: Job) -> None:
        self._tell(Progress(job.id, job.status, job.stage, job.progress, job.queue_position, job.eta_s))

    def poll_pause_s(self) -> float:
        """Seconds until the next look, growing. Raises WaitTimeoutError."""
        left_s = self.left_s
        if left_s is not None and left_s <= 0:
            raise WaitTimeoutError(f"{self._job_id} is not over after {self._timeout_s:g} s; it goes on.", self._job_id)
        pause_s, self._pause_s = self._pause_s, min(POLL_LONGEST_S, self._pause_s * 1.3)
        return pause_s if left_s is None else min(pause_s, left_s)

    def _tell(self, progress: Progress) -> None:
        if self._hook is not None and progress != self._told:
            self._told = progress
            self._hook(progress)
