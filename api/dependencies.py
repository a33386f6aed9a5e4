"""What a request works with: built once in `create_app`, handed to the endpoints as a dependency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, ParamSpec, TypeVar

import anyio
from anyio import CapacityLimiter
from celery import Celery
from fastapi import Depends, Request

from api.bodies import Pace
from api.metrics import RequestMetrics
from api.places import Places
from jobs.objects import ObjectStore
from jobs.opening import FreeSpace
from jobs.settings import Settings
from jobs.signing import WebhookSecrets
from jobs.store import JobStore

P = ParamSpec("P")
T = TypeVar("T")

# Threads apart from those of the plain endpoints (40 by default), so that slow uploads and many listeners can not keep
# `GET /jobs/{id}` waiting.
UPLOAD_THREADS = 16
LISTENER_THREADS = 8


@dataclass(frozen=True)
class Dependencies:
    """What endpoints work with. store and objects are synchronous: call them from a thread."""

    settings: Settings
    store: JobStore
    objects: ObjectStore
    celery: Celery
    link_key: bytes
    metrics: RequestMetrics
    space: FreeSpace
    submissions: Places
    event_streams: Places
    downloads: Places
    webhook_secrets: WebhookSecrets
    upload_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(UPLOAD_THREADS))
    listener_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(LISTENER_THREADS))

    @property
    def pace(self) -> Pace:
        """How slow a body may be."""
        return Pace(self.settings.upload_idle_s, self.settings.upload_min_bytes_per_s)

    async def in_upload_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await anyio.to_thread.run_sync(lambda: call(*args, **kwargs), limiter=self.upload_threads)

    async def in_listener_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await anyio.to_thread.run_sync(lambda: call(*args, **kwargs), limiter=self.listener_threads)


async def get_dependencies(request: Request) -> Dependencies:
    """async: FastAPI sends a plain function into a thread and back, which costs more than most endpoints' own work."""
    return request.app.state.parts


WithDependencies = Annotated[Dependencies, Depends(get_dependencies)]
