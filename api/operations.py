"""Operations: liveness and readiness probes, the metrics endpoint, and unreadable records, which
admins list and delete.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import anyio
from fastapi import APIRouter, Path, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, Field
from redis.exceptions import RedisError

from api.dependencies import Dependencies, WithDependencies
from api.engines import auto_engine
from api.jobs import view_response
from api.metrics import StoreCollector
from api.problems import FieldError, problem_response, refusals
from jobs.errors import ServiceError
from jobs.names import is_job_id, job_prefix
from jobs.objects import ObjectStoreFullError
from jobs.store import JobNotFoundError, RecordKind

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


quarantine_router = APIRouter(prefix="/quarantine", tags=["operations"])


class UnreadableRecord(BaseModel):
    """A stored record that cannot be read."""

    kind: RecordKind
    id: str
    owner: str = Field(description="Id of the account that a job belongs to; empty if unknown")
    reason: str = Field(description="What is wrong and where, without the content")
    found_at: datetime


class QuarantineView(BaseModel):
    """The oldest records in quarantine, and their total number."""

    records: list[UnreadableRecord]
    total: int


@quarantine_router.get(
    "",
    operation_id="listQuarantine",
    summary="List unreadable records",
    response_model=QuarantineView,
    responses=refusals("service_unavailable"),
)
def list_quarantine(
    parts: WithDependencies, limit: Annotated[int, Query(ge=1, le=1000, description="Records to list")] = 100
) -> Response:
    """They are in no other list and in no queue. Those of jobs are deleted with their files after the retention time of
    the deployment."""
    records = [
        UnreadableRecord(kind=each.kind, id=each.id, owner=each.owner, reason=each.reason, found_at=each.at)
        for each in parts.store.quarantine.records(limit=limit)
    ]
    return view_response(QuarantineView(records=records, total=parts.store.quarantine.size()))


@quarantine_router.delete(
    "/{kind}/{record_id}",
    operation_id="deleteQuarantined",
    summary="Delete an unreadable record with its files",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "Deleted"}, **refusals("record_not_found", "service_unavailable")},
)
def delete_quarantined(
    parts: WithDependencies,
    kind: Annotated[RecordKind, Path(description="As in `GET /quarantine`")],
    record_id: Annotated[str, Path(max_length=255, description="Id of the record")],
) -> Response:
    # Files first, as for any job: if this fails half-way, the record still leads to the remaining files
    if kind == "job" and is_job_id(record_id):
        parts.objects.delete_prefix(job_prefix(record_id))
    try:
        parts.store.quarantine.drop(kind, record_id)
    except JobNotFoundError:
        raise ServiceError("record_not_found", "There is no such record in quarantine.") from None
    return Response(status_code=204)
