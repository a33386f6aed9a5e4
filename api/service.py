"""The service itself: engines, options and limits that it offers, and the table of error codes."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from api.dependencies import WithDependencies
from api.engines import auto_engine
from api.jobs import view_response
from api.limits import MAX_METADATA_BYTES, MAX_METADATA_DEPTH, MAX_METADATA_VALUES
from api.problems import refusals
from jobs.errors import ERROR_CODES, ServiceError
from retalking_core.vocabulary.containers import ACCEPTED_NAMES
from retalking_core.vocabulary.engines import EngineInfo
from retalking_core.vocabulary.metrics import METRIC_TABLE, Better
from retalking_core.vocabulary.options import JobOptions

logger = logging.getLogger("retalking.api")
router = APIRouter(tags=["service"])
open_router = APIRouter(tags=["service"])


class EngineOffer(EngineInfo):
    """An engine, and the number of live workers that offer it in this version on this kind of device."""

    workers: int


class OptionInfo(BaseModel):
    """A job option. `values` is its JSON Schema."""

    description: str
    default: Any
    values: dict[str, Any]


class MetricInfo(BaseModel):
    """What a metric measures. lowest, highest: the values it can have, null without a bound. source: its definition."""

    description: str
    unit: str
    better: Better
    lowest: float | None
    highest: float | None
    source: str
    checkpoints: tuple[str, ...] = Field(description="Weight files it needs")


class Limits(BaseModel):
    """Limits of requests, in bytes and seconds."""

    max_upload_bytes: int
    max_json_bytes: int
    max_metadata_bytes: int
    max_metadata_depth: int = Field(description="Nesting of objects and lists")
    max_metadata_values: int = Field(description="Total number of names and values")
    max_video_s: float
    max_audio_s: float
    accepted_files: dict[str, str]


class Offer(BaseModel):
    """What the live workers offer now."""

    workers: int = Field(description="Live render workers")
    engines: list[EngineOffer]
    auto_engine: str | None = Field(description="The engine that `auto` selects now; null if no live worker offers one")
    unavailable: dict[str, str] = Field(description="Engines that no live worker offers, with the reason")
    metrics: list[str] = Field(description="Names for the option `evaluate`")
    metric_table: dict[str, MetricInfo] = Field(description="What each metric means")
    options: dict[str, OptionInfo]
    limits: Limits


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
    summary="Engines, options, metrics and limits on offer now",
    response_model=Offer,
    responses=refusals("service_unavailable"),
)
def list_engines(parts: WithDependencies) -> Response:
    workers = parts.store.workers.live()
    counts: dict[str, EngineOffer] = {}
    for engine in (engine for worker in workers for engine in worker.engines):
        seen = counts.get(engine.model_dump_json())
        counts[engine.model_dump_json()] = EngineOffer(**engine.model_dump(), workers=(seen.workers if seen else 0) + 1)
    offered = {engine.name for engine in counts.values()}
    auto: str | None = None
    with suppress(ServiceError):
        auto = auto_engine(parts.settings.engine, workers)
    reasons = {name: why for worker in workers for name, why in worker.unavailable.items() if name not in offered}
    settings = parts.settings
    return view_response(
        Offer(
            workers=len(workers),
            engines=sorted(counts.values(), key=lambda offer: (offer.name, offer.version, offer.device)),
            auto_engine=auto,
            unavailable=reasons,
            metric_table=metric_table(),
            metrics=sorted({name for worker in workers for name in worker.metrics}),
            options=describe_options(),
            limits=Limits(
                max_upload_bytes=settings.max_upload_bytes,
                max_json_bytes=settings.max_json_bytes,
                max_metadata_bytes=MAX_METADATA_BYTES,
                max_metadata_depth=MAX_METADATA_DEPTH,
                max_metadata_values=MAX_METADATA_VALUES,
                max_video_s=settings.max_video_s,
                max_audio_s=settings.max_audio_s,
                accepted_files=dict(ACCEPTED_NAMES),
            ),
        )
    )


def metric_table() -> dict[str, MetricInfo]:
    """The vocabulary's table, without what only workers need."""
    return {
        name: MetricInfo(**{field: getattr(row, field) for field in MetricInfo.model_fields})
        for name, row in METRIC_TABLE.items()
    }


def describe_options() -> dict[str, OptionInfo]:
    """The options of a job, from the model that also validates them and describes them in OpenAPI."""
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
    """A schema with its references resolved, so that each option is self-contained."""
    if isinstance(node, list):
        return [_inline(item, shapes) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        shape = shapes[node["$ref"].rpartition("/")[2]]
        return _inline({**shape, **{key: value for key, value in node.items() if key != "$ref"}}, shapes)
    return {key: _inline(value, shapes) for key, value in node.items()}


@open_router.get(
    "/errors",
    operation_id="listErrors",
    summary="The table of error codes",
    response_model=list[ErrorRow],
    responses=refusals(),
)
async def list_errors() -> list[ErrorRow]:
    return [ErrorRow(**vars(row)) for row in ERROR_CODES.values()]
