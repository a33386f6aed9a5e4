"""Keeping a lease while its job or segment is worked on: renewal, progress reports, and the reasons to stop.

A thread renews the lease every third of its length, because a fetch or a slow first frame may take longer than a lease
without any progress. It stops when a render or an evaluation reports no progress for `stall_s`: a hung one would
otherwise keep the job forever. From then on every check() raises LeaseLostError, and the store gives the job to another
worker. If the render does not reach a check within a further lease, the process kills itself, and Celery starts a new
one. Fetching and publishing report too little for that; their own timeouts and Celery's limit bound them.

An unreachable store takes nothing away: the lease is lost when the store says so.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self

from redis.exceptions import RedisError

from jobs.store import Fetch, Lease, LeaseLostError, SegmentLease
from jobs.store.leases import EvaluationLease
from jobs.telemetry import enter_stage
from retalking_core.errors import RenderCanceled
from worker.supervision import ShutdownNotice

log = logging.getLogger(__name__)

# Enough for a moving progress bar; spares Redis and the webhooks of progress.
REPORT_EVERY_S = 0.5


class ShutdownRequestedError(Exception):
    """The worker is shutting down: the job is released, and the attempt does not count."""


def kill_process() -> None:
    """SIGKILL: what the main thread hangs in (a CUDA call, a decoder) may ignore any other signal."""
    os.kill(os.getpid(), signal.SIGKILL)


class LeaseBackend(Protocol):
    """Renews leases: the job store for jobs, `worker.splitting.SegmentLeaseBackend` for segments,
    `worker.evaluation.EvaluationLeaseBackend` for evaluations, `worker.fetch.FetchLeaseBackend` for fetches."""

    def report(self, lease: Any, *, stage: str, progress: float, lease_s: float) -> bool: ...

    def renew(self, lease: Any, lease_s: float) -> bool: ...


class LeaseKeeper:
    """Keeps one job's (or one segment's) lease for the length of a `with` block.

    beat() may be called from any thread.
    """

    def __init__(
        self,
        backend: LeaseBackend,
        lease: Lease | SegmentLease | EvaluationLease | Fetch,
        *,
        lease_s: float,
        stall_s: float,
        notice: ShutdownNotice,
        on_stuck: Callable[[], None] = kill_process,
    ) -> None:
        self._backend = backend
        self.lease = lease
        self._lease_s = lease_s
        self._stall_s = stall_s
        self._notice = notice
        self._on_stuck = on_stuck
        self._stopped = threading.Event()
        self._lost = False
        self._cancel = False
        self._last_beat: object = None
        self._progress_at = time.monotonic()
        self._is_watched = False
        self._reported_at = 0.0
        self._reported_stage = ""
        self._quiet_until = 0.0
        self._thread = threading.Thread(target=self._renew_until_stopped, name=f"lease-{lease.job_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(timeout=self._lease_s)

    @contextmanager
    def expecting_progress(self) -> Iterator[None]:
        """Inside the block, no progress for `stall_s` costs the lease."""
        self._progress_at, self._is_watched = time.monotonic(), True
        try:
            yield
        finally:
            self._is_watched = False

    def count_as_progress(self) -> None:
        """Waiting for another worker, whose own lease bounds it, is not a stall."""
        self._progress_at = time.monotonic()

    def beat(self, stage: str, fraction: float, detail: object = None) -> None:
        """Report progress (fraction 0..1 of the whole job), then check().

        Sent at most twice a second, and at every new stage. A call whose arguments differ from those before counts as
        progress; detail: anything else that shows it, such as a frame or byte count.
        """
        now = time.monotonic()
        if (stage, fraction, detail) != self._last_beat:
            self._last_beat, self._progress_at = (stage, fraction, detail), now
        is_due = stage != self._reported_stage or now - self._reported_at >= REPORT_EVERY_S
        if is_due and now >= self._quiet_until:
            if stage != self._reported_stage:
                enter_stage(stage)
            self._reported_stage, self._reported_at = stage, now
            self._call(
                lambda: self._backend.report(
                    self.lease, stage=stage, progress=min(max(fraction, 0.0), 1.0), lease_s=self._lease_s
                )
            )
        self.check()

    def check(self) -> None:
        """Raises LeaseLostError, RenderCanceled or ShutdownRequestedError when the work must stop."""
        if self._lost:
            raise LeaseLostError(self.lease.job_id)
        if self._cancel:
            raise RenderCanceled("The job was canceled.")
        if self._notice.is_due:
            raise ShutdownRequestedError(self.lease.job_id)

    def wait(self, seconds: float) -> None:
        """Sleep, with a check() every REPORT_EVERY_S."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, REPORT_EVERY_S))

    def _renew_until_stopped(self) -> None:
        pause = self._lease_s / 3
        while not self._stopped.wait(min(pause, self._stall_s / 3)):
            idle_s = time.monotonic() - self._progress_at if self._is_watched else 0.0
            if idle_s > self._stall_s + self._lease_s:
                log.critical("render hangs: killing this process", extra=self._tags | {"seconds": idle_s})
                self._on_stuck()
                return
            if idle_s > self._stall_s and not self._lost:
                log.error("no progress: lease abandoned", extra=self._tags | {"seconds": round(idle_s, 1)})
                self._lost = True
            if not self._lost:
                self._call(lambda: self._backend.renew(self.lease, self._lease_s))

    def _call(self, call: Callable[[], bool]) -> None:
        """One call to the store; a cancel request or a lost lease is kept for the next check()."""
        try:
            self._cancel = call() or self._cancel
        except LeaseLostError:
            self._lost = True
        except RedisError as fault:
            # Each call waits for seconds before it gives up; the render must not wait in every batch.
            self._quiet_until = time.monotonic() + self._lease_s / 3
            log.warning("job store unreachable: %s", type(fault).__name__, extra=self._tags)

    @property
    def _tags(self) -> dict[str, object]:
        return {"job": self.lease.job_id, "attempt": self.lease.attempt}
