"""What the parent of a render worker does when a child dies at work: it lets the child's leases run out at once.

Celery tells the parent of a dead child within milliseconds; without this the job would lie still until its lease ran
out. The janitor's next round does what it does with every lost lease: count the attempt, delete what the attempt had
published, send the job again. A machine that dies takes its parent along; then the lease is what tells.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery.worker.request import Request
from redis.exceptions import RedisError

from jobs.opening import open_store
from jobs.settings import Settings
from jobs.store import JobStore

log = logging.getLogger(__name__)

# The parent reads messages and results in the thread that waits for this.
PATIENCE_S = 2.0


class DeathNotice:
    """worker_id: the name that a child with a given process id has in the job store."""

    def __init__(self, settings: Settings, worker_id: Callable[[int], str]) -> None:
        self._settings = settings
        self._worker_id = worker_id
        self._store: JobStore | None = None

    def request_class(self) -> type[Request]:
        """For `Task.Request`: Celery's record of a message in the parent."""
        notice = self

        class WatchedRequest(Request):
            def on_failure(self, exc_info: ExceptionInfo, *args: Any, **named: Any) -> None:
                super().on_failure(exc_info, *args, **named)
                fault = exc_info.exception
                if isinstance(getattr(fault, "exc", fault), WorkerLostError) and self.worker_pid:
                    notice.give(self.args[0], self.worker_pid)

        return WatchedRequest

    def give(self, job_id: str, pid: int) -> None:
        """Raises nothing: where the store does not answer, the lease runs out by itself."""
        worker_id = self._worker_id(pid)
        tags = {"job": job_id, "worker": worker_id}
        try:
            self._store = self._store or open_store(self._settings, retries=0, timeout_s=PATIENCE_S)
            held = self._store.jobs.abandon(job_id, worker_id)
            self._store.workers.forget(worker_id)
        except RedisError as fault:
            log.error("a child died, and the job store is away: %s", type(fault).__name__, extra=tags)
        else:
            log.warning("a child died: %s leases let go", held, extra=tags)
