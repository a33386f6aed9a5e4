"""Choice of the engine for a job among those that live workers offer, and check of the options that it supports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from api.problems import FieldError
from jobs.errors import ServiceError
from jobs.models import EngineInfo, JobRequest, WorkerInfo
from jobs.settings import Settings

# What `auto` means, best first.
PREFERENCE = ("videoretalking", "preview")


def check_engine(request: JobRequest, workers: Sequence[WorkerInfo], settings: Settings) -> None:
    """Raises engine_unavailable or unsupported_option. Without a live worker this cannot be checked; the worker that
    takes the job checks again."""
    if not workers:
        return
    offers = [engine for worker in workers for engine in worker.engines]
    reasons = {name: reason for worker in workers for name, reason in worker.unavailable.items()}
    name = choose_engine(request.engine, settings.engine, {offer.name for offer in offers}, reasons)
    refused = [refused_options(request, offer) for offer in offers if offer.name == name]
    # Workers of different versions can offer the same engine: one that supports all options is enough.
    if all(refused):
        raise _unsupported(name, refused[0], request, offers)


def choose_engine(requested: str, configured: str, offered: set[str], reasons: Mapping[str, str]) -> str:
    """The engine that would run. Raises engine_unavailable.

    requested: engine of the job; `auto` defers to `configured`. configured: engine of the deployment; `auto` picks the
    best one offered. reasons: why workers do not offer an engine; the error repeats them.
    """
    wanted = configured if requested == "auto" else requested
    candidates = PREFERENCE if wanted == "auto" else (wanted,)
    for name in candidates:
        if name in offered:
            return name
    have = ", ".join(sorted(offered)) or "none"
    message = f"No live worker offers the engine {wanted}; offered now: {have}. {reasons.get(wanted, '')}"
    raise ServiceError("engine_unavailable", message.rstrip())


def refused_options(request: JobRequest, engine: EngineInfo) -> dict[str, str]:
    """Options of the request whose values this engine does not support, with those values."""
    refused = {}
    for option, values in engine.unsupported_options.items():
        value = _text(_value(request, option))
        is_default = value == _text(_value(JobRequest(), option))
        if value in values or (not values and not is_default):
            refused[option] = value
    return refused


def _value(request: JobRequest, option: str) -> Any:
    """The value of an option; dotted names address nested ones. An uploaded picture counts as `image`."""
    if option == "expression" and request.expression.startswith("upload:"):
        return "image"
    value: Any = request
    for step in option.split("."):
        value = getattr(value, step, None)
    return value


def _text(value: Any) -> str:
    """A value as engines and messages write it: JSON, but strings without quotes."""
    if isinstance(value, BaseModel):
        return value.model_dump_json()
    return value if isinstance(value, str) else json.dumps(value)


def _unsupported(name: str, refused: dict[str, str], request: JobRequest, offers: Sequence[EngineInfo]) -> ServiceError:
    able = sorted({o.name for o in offers if o.name != name and not refused_options(request, o)})
    remedy = f"request the engine {able[0]}" if able else "wait for a worker with an engine that does (`GET /engines`)"
    errors = [
        FieldError(pointer=f"#/{option.replace('.', '/')}", message=f"The engine {name} does not support {value}")
        for option, value in refused.items()
    ]
    values = ", ".join(f"{option}={value}" for option, value in refused.items())
    message = f"The engine {name} would run, and it does not support {values}. Leave it out, or {remedy}."
    return ServiceError("unsupported_option", message, errors=errors)
