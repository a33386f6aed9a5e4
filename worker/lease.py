"""Holding on to a job while it is worked on: renewing the lease, telling progress, and learning when to stop.

A thread renews the lease every third of its length, because a fetch or a slow first frame may take longer than a lease
without any progress. It stops renewing when a render told no progress for `stall_s`: a hung one would otherwise be kept
alive for ever. From then on every check() raises LeaseLostError; the store gives the job to another worker. If the
render does not come back to a check within a further lease, the process ends itself, and Celery starts a fresh one.
So it is with the evaluation. Fetching and publishing tell too little to be judged so; their own timeouts and Celery's
limit bound them.

A store that can not be reached takes nothing away: the lease counts as lost when the store says so.
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

from jobs.store import Lease, LeaseLostError, SegmentLease
from jobs.traces import enter_stage
from retalking_core.errors import RenderCanceled
from worker.shutdown import HandBackError, ShutdownNotice

log = logging.getLogger(__name__)

# Enough for a bar that moves; Redis and the webhooks of progress are spared.
REPORT_EVERY_S = 0.5


def end_process() -> None:
    """SIGKILL: whatever the main thread hangs in (a CUDA call, a decoder) may ignore anything softer."""
    os.kill(os.getpid(), signal.SIGKILL)


class LeaseBook(Protocol):
    """Where a lease is renewed: the job store for jobs, `worker.segments.SegmentBook` for segments."""

    def report(self, lease: Any, *, stage: str, progress: float, lease_s: float) -> bool: ...

    def renew(self, lease: Any, lease_s: float) -> bool: ...


class LeaseKeeper:
    """One job's lease (or one segment's), for the length of a `with` block.

    beat() is called by whoever works (any thread): it counts as progress when what it tells is new.
    """

    def __init__(
        self,
        store: LeaseBook,
        lease: Lease | SegmentLease,
        *,
        lease_s: float,
        stall_s: float,
        notice: ShutdownNotice,
        on_stuck: Callable[[], None] = end_process,
    ) -> None:
        self._store = store
        self.lease = lease
        self._lease_s = lease_s
        self._stall_s = stall_s
        self._notice = notice
        self._on_stuck = on_stuck
        self._over = threading.Event()
        self._lost = False
        self._cancel = False
        self._seen: object = None
        self._moved_at = time.monotonic()
        self._is_watched = False
        self._told_at = 0.0
        self._told_stage = ""
        self._quiet_until = 0.0
        self._thread = threading.Thread(target=self._renew_until_over, name=f"lease-{lease.job_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=self._lease_s)

    @contextmanager
    def expecting_progress(self) -> Iterator[None]:
        """Inside the block, silence for `stall_s` costs the lease."""
        self._moved_at, self._is_watched = time.monotonic(), True
        try:
            yield
        finally:
            self._is_watched = False

    def excuse(self) -> None:
        """The work stands still for a good reason, which somebody else watches."""
        self._moved_at = time.monotonic()

    def beat(self, stage: str, fraction: float, detail: object = None) -> None:
        """Tell where the job stands (fraction 0..1 of the whole job), then check().

        Told at most twice a second, and at every new stage. detail: whatever else shows that work goes on.
        """
        now = time.monotonic()
        if (stage, fraction, detail) != self._seen:
            self._seen, self._moved_at = (stage, fraction, detail), now
        is_news = stage != self._told_stage or now - self._told_at >= REPORT_EVERY_S
        if is_news and now >= self._quiet_until:
            if stage != self._told_stage:
                enter_stage(stage)
            self._told_stage, self._told_at = stage, now
            self._ask(
                lambda: self._store.report(
                    self.lease, stage=stage, progress=min(max(fraction, 0.0), 1.0), lease_s=self._lease_s
                )
            )
        self.check()

    def check(self) -> None:
        """Raises LeaseLostError, RenderCanceled or HandBackError when the work is to stop."""
        if self._lost:
            raise LeaseLostError(self.lease.job_id)
        if self._cancel:
            raise RenderCanceled("The job was canceled.")
        if self._notice.is_due:
            raise HandBackError(self.lease.job_id)

    def wait(self, seconds: float) -> None:
        """Sleep, checking as often as progress is told."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, REPORT_EVERY_S))

    def _renew_until_over(self) -> None:
        pause = self._lease_s / 3
        while not self._over.wait(min(pause, self._stall_s / 3)):
            idle_s = time.monotonic() - self._moved_at if self._is_watched else 0.0
            if idle_s > self._stall_s + self._lease_s:
                log.critical("the render does not come back: this process ends", extra=self._tags | {"seconds": idle_s})
                self._on_stuck()
                return
            if idle_s > self._stall_s and not self._lost:
                log.error("no progress: the lease is let go", extra=self._tags | {"seconds": round(idle_s, 1)})
                self._lost = True
            if not self._lost:
                self._ask(lambda: self._store.renew(self.lease, self._lease_s))

    def _ask(self, call: Callable[[], bool]) -> None:
        """One call to the store; its answer, a loss or a fault is kept for the next check()."""
        try:
            self._cancel = call() or self._cancel
        except LeaseLostError:
            self._lost = True
        except RedisError as fault:
            # Each call waits for seconds before it gives up; the render must not wait with every batch.
            self._quiet_until = time.monotonic() + self._lease_s / 3
            log.warning("the job store did not answer: %s", type(fault).__name__, extra=self._tags)

    @property
    def _tags(self) -> dict[str, object]:
        return {"job": self.lease.job_id, "attempt": self.lease.attempt}
