"""How the parent of a render worker, its child processes and the job store know of each other.

Parent to child: `ShutdownNotice` (when to release running jobs). Parent to store, through the child: `PollStamp` (when
the parent last asked the broker for messages). Child to store: `Heartbeat`. Parent on behalf of a dead child:
`WatchedPool` and `ChildDeathWatch`. `disable_gossip` turns off Celery's own protocol between workers, which this
replaces.
"""

from __future__ import annotations

import logging
import mmap
import platform
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery import Celery
from celery.apps.worker import Worker
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.prefork import TaskPool
from celery.worker.request import Request
from redis.exceptions import RedisError

from jobs.models import WorkerInfo
from jobs.opening import open_store
from jobs.settings import Settings
from jobs.store import JobStore
from retalking_core.vocabulary.engines import EngineInfo

log = logging.getLogger(__name__)

# Longest wait for the store where work must not stop for it: in the parent after a death (it reads messages and results
# in the same thread), and for a heartbeat.
STORE_TIMEOUT_S = 2.0
DEATH_CHECK_S = 0.5
_PACKAGES = ("retalking", "celery", "numpy", "av", "opencv-python", "dlib-bin", "torch")
_DOUBLE = struct.Struct("d")


class SharedTimestamp:
    """Clock reading in memory that a parent shares with the children it forks after making it; 0: none yet."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, _DOUBLE.size)

    def write(self, timestamp_s: float) -> None:
        self._page[:] = _DOUBLE.pack(timestamp_s)

    def read(self) -> float:
        (timestamp_s,) = _DOUBLE.unpack(self._page[:])
        return float(timestamp_s)


class ShutdownNotice:
    """When running jobs must be released; one for a parent and the children it forks after making it.

    Celery's warm shutdown (SIGTERM) waits for the running task without limit. Its soft shutdown, on SIGQUIT or
    REMAP_SIGTERM, waits for worker_soft_shutdown_timeout and kills the child. Neither lets the child release its job:
    the job would wait until its lease expires, and the attempt would count. Therefore the parent sets a deadline in
    shared memory, and the render reads it between batches. CLOCK_MONOTONIC is one clock for all processes of a machine.

    A SIGTERM that reaches the child itself (systemd signals every process of a service; Celery's hard time limit and
    cold shutdown do too) becomes SystemExit there, raised by billiard; runner.py handles it.
    """

    def __init__(self) -> None:
        self._deadline = SharedTimestamp()

    def give(self, grace_s: float) -> None:
        """The first call sets the deadline; a second signal does not move it."""
        if not self.is_given:
            self._deadline.write(time.monotonic() + grace_s)

    @property
    def is_given(self) -> bool:
        return self._deadline.read() > 0

    @property
    def is_due(self) -> bool:
        return 0 < self._deadline.read() <= time.monotonic()


class PollStamp:
    """When the parent of a render worker last asked the broker for messages.

    The heartbeat of a child shows that the child lives. A parent that hangs, or whose connection died unnoticed, takes
    no job all the same, so this travels with the child's heartbeat.
    """

    def __init__(self) -> None:
        self._stamp = SharedTimestamp()

    def mark(self) -> None:
        self._stamp.write(time.time())

    @property
    def at(self) -> datetime | None:
        """None before the first poll."""
        stamp_s = self._stamp.read()
        return datetime.fromtimestamp(stamp_s, UTC) if stamp_s else None


class _WatchedProcesses(AsynPool):
    @property
    def timers(self) -> dict[Callable[[], None], float]:
        return {self.maintain_pool: DEATH_CHECK_S}


class WatchedPool(TaskPool):
    """Celery's pool of processes, which looks for dead ones every DEATH_CHECK_S instead of every 5 s.

    A dying process closes its pipes before the kernel lets its parent wait for it. On several cores the parent is often
    quicker: it sees the closed pipe, finds no dead process, and does not look again before the next round. Measured by
    `python -m bench.killed_child` with celery 5.7.0, rounds of 5 s: a dead child was noticed after up to 5 s.
    """

    Pool = _WatchedProcesses


class ChildDeathWatch:
    """Ends the leases of a child that died at work, from its parent.

    `WatchedPool` tells the parent within half a second; without this the job would wait until its lease expires. The
    janitor's next round treats it as any lost lease: it counts the attempt, deletes what the attempt published, and
    sends the job again. When a whole machine dies, only the lease tells.

    worker_id: maps a child's process id to its name in the job store.
    """

    def __init__(self, settings: Settings, worker_id: Callable[[int], str]) -> None:
        self._settings = settings
        self._worker_id = worker_id
        self._store: JobStore | None = None

    def request_class(self) -> type[Request]:
        """For `Task.Request`: Celery's record of a message in the parent."""
        watch = self

        class WatchedRequest(Request):
            def on_failure(self, exc_info: ExceptionInfo, *args: Any, **kwargs: Any) -> None:
                super().on_failure(exc_info, *args, **kwargs)
                fault = exc_info.exception
                if isinstance(getattr(fault, "exc", fault), WorkerLostError) and self.worker_pid:
                    watch.end_leases(self.args[0], int(self.worker_pid))

        return WatchedRequest

    def end_leases(self, job_id: str, pid: int) -> None:
        """Raises nothing: if the store does not answer, the leases expire by themselves."""
        worker_id = self._worker_id(pid)
        tags = {"job": job_id, "worker": worker_id}
        try:
            self._store = self._store or open_store(self._settings, retries=0, timeout_s=STORE_TIMEOUT_S)
            ended = self._store.jobs.abandon(job_id, worker_id)
            self._store.workers.forget(worker_id)
        except RedisError as fault:
            log.error("child process died, job store unreachable: %s", type(fault).__name__, extra=tags)
        else:
            log.warning("child process died: %s leases ended", ended, extra=tags)


class Heartbeat:
    """A render process in the store's list of workers: engines, metrics, versions, and the job in progress.

    Sent every third of `ttl_s`, and at once when the job changes; a process without heartbeat leaves the list after
    `ttl_s`.

    condition: fields of WorkerInfo that change by themselves, read at each heartbeat.
    """

    def __init__(
        self,
        store: JobStore,
        worker_id: str,
        engines: Sequence[EngineInfo],
        metrics: Sequence[str],
        ttl_s: float,
        *,
        is_closing: Callable[[], bool],
        unavailable: Mapping[str, str] | None = None,
        condition: Callable[[], dict[str, object]] = dict,
    ) -> None:
        self._store = store
        self._ttl_s = ttl_s
        self._is_closing = is_closing
        self._condition = condition
        self._info = WorkerInfo(
            id=worker_id,
            engines=list(engines),
            unavailable=dict(unavailable or {}),
            metrics=list(metrics),
            versions=installed_versions(),
            started_at=datetime.now(UTC),
        )
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._send_until_stopped, name="heartbeat", daemon=True)

    @property
    def is_busy(self) -> bool:
        return self._info.busy_with is not None

    def start(self) -> None:
        self._send()
        self._thread.start()

    def stop(self) -> None:
        """Leave the list of workers. Also called while the process ends, so a fault is only logged."""
        self._stopped.set()
        self._thread.join(timeout=2.0)
        try:
            self._store.workers.forget(self._info.id)
        except RedisError as fault:
            log.warning("worker not removed from the list: %s", type(fault).__name__, extra={"worker": self._info.id})

    @contextmanager
    def working_on(self, job_id: str) -> Iterator[None]:
        self._info = self._info.model_copy(update={"busy_with": job_id})
        self._send()
        try:
            yield
        finally:
            self._info = self._info.model_copy(update={"busy_with": None})
            self._send()

    def _send_until_stopped(self) -> None:
        while not self._stopped.wait(self._ttl_s / 3):
            self._send()

    def _send(self) -> None:
        if self._stopped.is_set() or (self._is_closing() and not self.is_busy):
            return
        try:
            self._store.workers.report(self._info.model_copy(update=self._condition()), self._ttl_s)
        except RedisError as fault:
            log.warning("heartbeat failed: %s", type(fault).__name__, extra={"worker": self._info.id})


def installed_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def disable_gossip(app: Celery) -> None:
    """Make `celery -A ... worker` start without gossip, mingle and heartbeats.

    They tell workers about workers over Redis pub/sub, which the job store does here. And they cost: measured with
    celery and kombu 5.7.0, when all connections are cut while a task runs, the parent reads from a new pub/sub
    connection that is subscribed to nothing, and hangs forever (tests/worker: lost connections). Celery has no setting
    for this, only options of the command line, which every way of starting a worker would have to repeat.
    """

    class QuietWorker(Worker):
        def __init__(self, app: Celery | None = None, **options: Any) -> None:
            super().__init__(
                app, **options | {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}
            )

    # A cached property, which celery-types declares read-only.
    app.Worker = app.subclass_with_self(QuietWorker, name="Worker")  # type: ignore[misc]
