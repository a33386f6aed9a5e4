"""What endpoints depend on: built once in `create_app`, injected by FastAPI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, ParamSpec, TypeVar

import anyio
from anyio import CapacityLimiter
from celery import Celery
from fastapi import Depends, Request

from api.limits import ConcurrencyLimit, Pace
from api.metrics import RequestMetrics
from api.waiting import JobChanges
from jobs.objects import ObjectStore
from jobs.opening import FreeSpace
from jobs.settings import Settings
from jobs.signing import WebhookSecrets
from jobs.store import JobStore

P = ParamSpec("P")
T = TypeVar("T")

# Separate from the threads of the plain endpoints (40 by default), so that slow uploads and many listeners cannot block
# `GET /jobs/{id}`.
UPLOAD_THREADS = 16
LISTENER_THREADS = 8
# Thousands of waiting calls may end at the same moment; their answers must not fill the threads of the others.
WAITER_THREADS = 2


@dataclass(frozen=True)
class Dependencies:
    """Dependencies of the endpoints. store and objects are synchronous: call them from a thread."""

    settings: Settings
    store: JobStore
    objects: ObjectStore
    celery: Celery
    link_key: bytes
    metrics: RequestMetrics
    space: FreeSpace
    submissions: ConcurrencyLimit
    event_streams: ConcurrencyLimit
    downloads: ConcurrencyLimit
    webhook_secrets: WebhookSecrets
    changes: JobChanges
    upload_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(UPLOAD_THREADS))
    listener_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(LISTENER_THREADS))
    waiter_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(WAITER_THREADS))

    @property
    def pace(self) -> Pace:
        """Slowest rate of a request body."""
        return Pace(self.settings.upload_idle_s, self.settings.upload_min_bytes_per_s)

    async def in_upload_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await anyio.to_thread.run_sync(lambda: call(*args, **kwargs), limiter=self.upload_threads)

    async def in_waiter_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await anyio.to_thread.run_sync(lambda: call(*args, **kwargs), limiter=self.waiter_threads)

    async def in_listener_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await anyio.to_thread.run_sync(lambda: call(*args, **kwargs), limiter=self.listener_threads)


def dependencies_of(request: Request) -> Dependencies:
    parts: Dependencies = request.app.state.parts
    return parts


async def get_dependencies(request: Request) -> Dependencies:
    """async because FastAPI runs a plain function in a thread, which costs more than the work of most endpoints."""
    return dependencies_of(request)


WithDependencies = Annotated[Dependencies, Depends(get_dependencies)]
