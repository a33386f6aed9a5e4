"""About the service itself: what it offers, whether it is well, what its error codes mean."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

import anyio
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, Field

from api.containers import ACCEPTED_NAMES
from api.jobs import view_response
from api.metrics import StoreCollector
from api.parts import Parts, WithParts
from api.problems import FieldError, problem_response, refusals
from api.submission import MAX_METADATA_BYTES
from jobs.errors import ERROR_CODES
from jobs.models import EngineInfo, JobOptions

logger = logging.getLogger("retalking.api")
router = APIRouter(tags=["service"])

# Longer than the store's own retries would make a probe time out on the caller's side.
CHECK_LIMIT_S = 4.0
_PLAIN_TEXT = {"text/plain": {"schema": {"type": "string"}}}


class EngineOffer(EngineInfo):
    """An engine, and how many live workers offer it in this version and on this kind of device."""

    workers: int


class OptionInfo(BaseModel):
    """A job option. `values` is its JSON Schema."""

    description: str
    default: Any
    values: dict[str, Any]


class Limits(BaseModel):
    """What may be sent. Bytes and seconds."""

    max_upload_bytes: int
    max_json_bytes: int
    max_metadata_bytes: int
    max_video_s: float
    max_audio_s: float
    accepted_files: dict[str, str]


class Offer(BaseModel):
    """What the live workers can do now."""

    workers: int = Field(description="Live render workers")
    engines: list[EngineOffer]
    metrics: list[str] = Field(description="Names for the option `evaluate`")
    options: dict[str, OptionInfo]
    limits: Limits


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Every part that a job needs is there."""

    status: Literal["ready"] = "ready"
    parts: dict[str, str]


class ErrorRow(BaseModel):
    """A public error code."""

    code: str
    status: int
    title: str
    advice: str
    retryable: bool


@router.get(
    "/engines",
    operation_id="listEngines",
    summary="What can be asked of the workers now",
    response_model=Offer,
    responses=refusals("service_unavailable"),
)
def list_engines(parts: WithParts) -> Response:
    workers = parts.store.workers()
    counts: dict[str, EngineOffer] = {}
    for engine in (engine for worker in workers for engine in worker.engines):
        seen = counts.get(engine.model_dump_json())
        counts[engine.model_dump_json()] = EngineOffer(**engine.model_dump(), workers=(seen.workers if seen else 0) + 1)
    settings = parts.settings
    return view_response(
        Offer(
            workers=len(workers),
            engines=sorted(counts.values(), key=lambda offer: (offer.name, offer.version, offer.device)),
            metrics=sorted({name for worker in workers for name in worker.metrics}),
            options=describe_options(),
            limits=Limits(
                max_upload_bytes=settings.max_upload_bytes,
                max_json_bytes=settings.max_json_bytes,
                max_metadata_bytes=MAX_METADATA_BYTES,
                max_video_s=settings.max_video_s,
                max_audio_s=settings.max_audio_s,
                accepted_files=dict(ACCEPTED_NAMES),
            ),
        )
    )


def describe_options() -> dict[str, OptionInfo]:
    """The options of a job from their model: one source for validation, OpenAPI and this."""
    schema = JobOptions.model_json_schema()
    shapes = schema.get("$defs", {})
    defaults = JobOptions().model_dump(mode="json")
    options = {}
    for name, shape in schema["properties"].items():
        values = _inline(shape, shapes)
        text = values.pop("description", "")
        values.pop("title", None)
        values.pop("default", None)
        options[name] = OptionInfo(description=text, default=defaults[name], values=values)
    return options


def _inline(node: Any, shapes: dict[str, Any]) -> Any:
    """A schema without references, so that each option stands alone."""
    if isinstance(node, list):
        return [_inline(item, shapes) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        shape = shapes[node["$ref"].rpartition("/")[2]]
        return _inline({**shape, **{key: value for key, value in node.items() if key != "$ref"}}, shapes)
    return {key: _inline(value, shapes) for key, value in node.items()}


@router.get(
    "/healthz",
    operation_id="getHealth",
    summary="Liveness",
    response_model=Health,
    responses=refusals(),
    tags=["operations"],
)
async def get_health() -> Response:
    return view_response(Health())


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Readiness: Redis, object store, a live worker",
    response_model=Readiness,
    responses=refusals("service_unavailable"),
    tags=["operations"],
)
async def get_readiness(request: Request, parts: WithParts) -> Response:
    checks: dict[str, Callable[[], str]] = {
        "redis": lambda: parts.store.ping() or "answers",
        "objects": lambda: parts.objects.check() or "writable",
        "workers": lambda: _check_workers(parts),
    }
    states: dict[str, str] = {}
    faults: dict[str, str] = {}

    async def run(name: str) -> None:
        try:
            with anyio.fail_after(CHECK_LIMIT_S):
                states[name] = await anyio.to_thread.run_sync(checks[name], abandon_on_cancel=True)
        except TimeoutError:
            faults[name] = f"did not answer within {CHECK_LIMIT_S:.0f} s"
        except _NoWorkerError as fault:
            faults[name] = str(fault)
        except Exception as fault:
            logger.warning("Not ready: %s: %s", name, type(fault).__name__)
            faults[name] = "can not be reached"

    async with anyio.create_task_group() as group:
        for name in checks:
            group.start_soon(run, name)
    if not faults:
        return view_response(Readiness(parts={name: states[name] for name in checks}))
    errors = [FieldError(location="service", pointer=name, message=faults[name]) for name in checks if name in faults]
    detail = "Not ready: " + "; ".join(f"{error.pointer} {error.message}" for error in errors) + "."
    return problem_response(request, "service_unavailable", detail, errors=errors)


class _NoWorkerError(Exception):
    """No worker reported within its time."""


def _check_workers(parts: Parts) -> str:
    live = len(parts.store.workers())
    if not live:
        raise _NoWorkerError("no render worker is live")
    return f"{live} live"


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"description": "Text exposition format", "content": _PLAIN_TEXT}} | refusals(),
    tags=["operations"],
)
def get_metrics(parts: WithParts) -> Response:
    """Answers also when the store does not: `retalking_store_up` is 0 then."""
    scrape = CollectorRegistry()
    scrape.register(StoreCollector(parts.store))
    body = generate_latest(parts.metrics.registry) + generate_latest(scrape)
    return Response(body, media_type=CONTENT_TYPE_LATEST)


@router.get(
    "/errors",
    operation_id="listErrors",
    summary="The table of error codes",
    response_model=list[ErrorRow],
    responses=refusals(),
)
async def list_errors() -> list[ErrorRow]:
    return [ErrorRow(**vars(row)) for row in ERROR_CODES.values()]
