"""A render process tells the store that it is there: engines, metrics, versions, and the job in work."""

from __future__ import annotations

import logging
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from redis.exceptions import RedisError

from jobs.models import EngineInfo, WorkerInfo
from jobs.store import JobStore

log = logging.getLogger(__name__)

_PACKAGES = ("retalking", "celery", "numpy", "av", "opencv-python", "dlib-bin", "torch")


class Presence:
    """Reports every third of `ttl_s`, and at once when the job in work changes; a process that is gone is gone from the
    list after `ttl_s`.

    condition: fields of the card that change by themselves, asked at each report."""

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
        self._card = WorkerInfo(
            id=worker_id,
            engines=list(engines),
            unavailable=dict(unavailable or {}),
            metrics=list(metrics),
            versions=installed_versions(),
            started_at=datetime.now(UTC),
        )
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._report_until_over, name="presence", daemon=True)

    @property
    def is_busy(self) -> bool:
        return self._card.busy_with is not None

    def start(self) -> None:
        self._tell()
        self._thread.start()

    def stop(self) -> None:
        """Leave the list of workers. Also called while the process goes down, so a fault is only noted."""
        self._over.set()
        self._thread.join(timeout=2.0)
        try:
            self._store.workers.forget(self._card.id)
        except RedisError as fault:
            log.warning("not signed off: %s", type(fault).__name__, extra={"worker": self._card.id})

    @contextmanager
    def working_on(self, job_id: str) -> Iterator[None]:
        self._card = self._card.model_copy(update={"busy_with": job_id})
        self._tell()
        try:
            yield
        finally:
            self._card = self._card.model_copy(update={"busy_with": None})
            self._tell()

    def _report_until_over(self) -> None:
        while not self._over.wait(self._ttl_s / 3):
            self._tell()

    def _tell(self) -> None:
        if self._over.is_set() or (self._is_closing() and not self.is_busy):
            return
        try:
            self._store.workers.report(self._card.model_copy(update=self._condition()), self._ttl_s)
        except RedisError as fault:
            log.warning("presence not told: %s", type(fault).__name__, extra={"worker": self._card.id})


def installed_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
