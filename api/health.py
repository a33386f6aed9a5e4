"""Liveness and readiness probes, and the metrics endpoint."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal

import anyio
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel
from redis.exceptions import RedisError

from api.dependencies import Dependencies, WithDependencies
from api.engines import auto_engine
from api.jobs import view_response
from api.metrics import StoreCollector
from api.problems import FieldError, problem_response, refusals
from jobs.errors import ServiceError
from jobs.objects import ObjectStoreFullError

logger = logging.getLogger("retalking.api")
router = APIRouter(tags=["operations"])
metrics_router = APIRouter(tags=["operations"])

# A longer limit, to cover the retries of the stores, would exceed the timeout of the orchestrator's probe.
CHECK_LIMIT_S = 4.0
_PLAIN_TEXT = {"text/plain": {"schema": {"type": "string"}}}


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Every dependency of a job is available."""

    status: Literal["ready"] = "ready"
    parts: dict[str, str]


@router.get(
    "/healthz",
    operation_id="getHealth",
    summary="Liveness",
    response_model=Health,
    responses=refusals(),
)
async def get_health() -> Response:
    return view_response(Health())


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Readiness: Redis, object store, a live worker with an engine",
    response_model=Readiness,
    responses=refusals("service_unavailable"),
)
async def get_readiness(request: Request, parts: WithDependencies) -> Response:
    checks: dict[str, Callable[[], str]] = {
        "redis": lambda: _check_store(parts),
        "objects": lambda: _check_objects(parts),
        "workers": lambda: _check_workers(parts),
        "engine": lambda: _check_engine(parts),
    }
    states: dict[str, str] = {}
    faults: dict[str, str] = {}

    async def run(name: str) -> None:
        try:
            with anyio.fail_after(CHECK_LIMIT_S):
                states[name] = await anyio.to_thread.run_sync(checks[name], abandon_on_cancel=True)
        except TimeoutError:
            faults[name] = f"did not answer within {CHECK_LIMIT_S:.0f} s"
        except _NotReadyError as fault:
            faults[name] = str(fault)
        except Exception as fault:
            logger.warning("Not ready: %s: %s", name, type(fault).__name__)
            faults[name] = "cannot be reached"

    async with anyio.create_task_group() as group:
        for name in checks:
            group.start_soon(run, name)
    if not faults:
        # Informs only: which kernels run makes nothing unready.
        kernels = await anyio.to_thread.run_sync(_kernels, parts)
        return view_response(Readiness(parts={name: states[name] for name in checks} | {"kernels": kernels}))
    errors = [FieldError(location="service", pointer=name, message=faults[name]) for name in checks if name in faults]
    detail = "Not ready: " + "; ".join(f"{error.pointer} {error.message}" for error in errors) + "."
    return problem_response(request, "service_unavailable", detail, errors=errors)


def _check_store(parts: Dependencies) -> str:
    parts.store.ping()
    return "answers"


def _check_objects(parts: Dependencies) -> str:
    """A full store does not make this process unready: jobs and results can still be read, and deleting makes room.
    Submissions are refused with storage_full."""
    try:
        parts.objects.check()
    except ObjectStoreFullError:
        return "full"
    return "writable"


class _NotReadyError(Exception):
    """A part answers, and no job could be rendered all the same. The message is for the operator."""


def _check_workers(parts: Dependencies) -> str:
    live = parts.store.workers.live()
    if not live:
        raise _NotReadyError("no render worker is live")
    # Busy workers do not poll; workers of older versions do not report when they polled
    oldest = datetime.now(UTC) - timedelta(seconds=parts.settings.worker_ttl_s)
    able = [worker for worker in live if worker.busy_with or not worker.polled_at or worker.polled_at >= oldest]
    if not able:
        limit_s = f"{parts.settings.worker_ttl_s:g}"
        raise _NotReadyError(f"{len(live)} live, but none has polled for jobs for {limit_s} s: restart them")
    return f"{len(live)} live"


def _check_engine(parts: Dependencies) -> str:
    """Whether the live workers offer the engine of `auto`. Without a live worker this is unknown, and `workers` says
    so."""
    live = parts.store.workers.live()
    if not live:
        return "unknown"
    try:
        return auto_engine(parts.settings.engine, live)
    except ServiceError as fault:
        raise _NotReadyError(f"is missing: {fault.message.rstrip('.')}") from None


def _kernels(parts: Dependencies) -> str:
    """`compiled`, `plain` or `mixed`, or how many workers run which; `none` where no engine compiles any."""
    try:
        states = Counter(worker.kernels for worker in parts.store.workers.live() if worker.kernels)
    except RedisError:
        return "unknown"
    if len(states) < 2:
        return next(iter(states), "none")
    return ", ".join(f"{number} {state}" for state, number in sorted(states.items()))


@metrics_router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"description": "Text exposition format", "content": _PLAIN_TEXT}, **refusals()},
)
def get_metrics(parts: WithDependencies) -> Response:
    """Also responds while the job store is unavailable: `retalking_store_up` is 0 then."""
    scrape = CollectorRegistry()
    scrape.register(StoreCollector(parts.store))
    body = generate_latest(parts.metrics.registry) + generate_latest(scrape)
    return Response(body, media_type=CONTENT_TYPE_LATEST)
