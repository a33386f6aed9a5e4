"""What a render process keeps for all its jobs, and what one attempt at a job carries."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from jobs.models import Job
from jobs.objects import ObjectStore
from jobs.settings import Settings
from jobs.store import JobStore, Lease
from retalking_core.evaluation.clip import EvaluationModels
from retalking_core.media.limits import MediaLimits
from worker.engines import EngineSet
from worker.lease import LeaseKeeper
from worker.memory import MemoryMeter
from worker.supervision import ShutdownNotice

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunContext:
    """Dependencies of every attempt of a render process."""

    settings: Settings
    store: JobStore
    objects: ObjectStore
    engines: EngineSet
    limits: MediaLimits
    worker_id: str
    notice: ShutdownNotice
    models: EvaluationModels
    """Networks that the metrics need."""
    memory: MemoryMeter = field(default_factory=MemoryMeter)
    storage_pauses_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 15.0)
    """Pauses between calls to the object store: a render is expensive, so half a minute of outage must not cost it."""
    call_helpers: Callable[[Job, int], None] = lambda _job, _count: None
    """Called with a split job and the number of idle workers that could render segments of it."""
    send_again: Callable[[Job], None] = lambda _job: None
    """Called with a queued job that another worker must take. Raises MessageNotSentError."""
    handed_on: dict[str, float] = field(default_factory=dict)
    """When jobs were last left to other workers, by id (time.monotonic)."""


@dataclass
class Attempt:
    """One attempt at a job: its lease, and what it has written."""

    context: RunContext
    lease: Lease
    keeper: LeaseKeeper
    started_s: float = field(default_factory=time.monotonic)
    written: list[str] = field(default_factory=list)
    """Keys of the objects that this attempt began to write. Their names contain its fence, so no one else writes them.
    """

    def log(self, level: int, message: str, exc_info: BaseException | None = None, **extra: object) -> None:
        tags: dict[str, object] = {"job": self.lease.job_id, "attempt": self.lease.attempt}
        tags["seconds"] = round(time.monotonic() - self.started_s, 2)
        log.log(level, message, exc_info=exc_info, extra=tags | extra)
