"""Choice of the engine for a job among those that live workers offer, and check of the options that it supports."""

from __future__ import annotations

from collections.abc import Sequence

from api.problems import FieldError
from jobs.errors import ServiceError
from jobs.models import JobRequest, SegmentOptions, WorkerInfo
from jobs.settings import Settings
from retalking_core.vocabulary.engines import AUTO, EngineInfo, preferred_engine
from retalking_core.vocabulary.options import DEFAULT_OPTIONS, refused_options


def check_engine(
    request: JobRequest, segments: Sequence[SegmentOptions], workers: Sequence[WorkerInfo], settings: Settings
) -> None:
    """Raises engine_unavailable or unsupported_option. Without a live worker this cannot be checked; the worker that
    takes the job checks again."""
    if not workers:
        return
    offers = [engine for worker in workers for engine in worker.engines]
    name = choose_engine(request.engine, settings.engine, workers)
    refused = [_refused(request, segments, offer) for offer in offers if offer.name == name]
    # Workers of different versions can offer the same engine: one that supports all options is enough.
    if all(refused):
        raise _unsupported(name, refused[0], request, segments, offers)


def choose_engine(requested: str, configured: str, workers: Sequence[WorkerInfo]) -> str:
    """The engine that would run. Raises engine_unavailable, with the reason that the workers give.

    requested: engine of the job; `auto` defers to `configured`. configured: engine of the deployment; `auto` picks the
    best one offered. workers: those that live.
    """
    offered = {engine.name for worker in workers for engine in worker.engines}
    wanted = configured if requested == AUTO else requested
    name = preferred_engine(wanted, offered)
    if name is not None:
        return name
    have = ", ".join(sorted(offered)) or "none"
    reasons = [worker.unavailable[wanted] for worker in workers if wanted in worker.unavailable]
    reason = reasons[0] if reasons else ""
    message = f"No live worker offers the engine {wanted}; offered now: {have}. {reason}"
    raise ServiceError("engine_unavailable", message.rstrip())


def auto_engine(configured: str, workers: Sequence[WorkerInfo]) -> str:
    """The engine of jobs that ask for `auto`. Raises engine_unavailable."""
    return choose_engine(AUTO, configured, workers)


def _refused(request: JobRequest, segments: Sequence[SegmentOptions], engine: EngineInfo) -> dict[str, str]:
    """Option -> value, for each that the engine does not support; options of segments by dotted names."""
    refused = refused_options(request, DEFAULT_OPTIONS, engine.unsupported_options)
    if segments and not engine.draws_lines:
        return refused | {"segments": f"[{len(segments)}]"}
    for number, segment in enumerate(segments):
        look = {name: getattr(segment, name) for name in ("expression", "upper_face")}
        given = {name: value for name, value in look.items() if value is not None}
        asked = DEFAULT_OPTIONS.model_copy(update=given)
        found = refused_options(asked, DEFAULT_OPTIONS, engine.unsupported_options)
        refused |= {f"segments.{number}.{option}": value for option, value in found.items()}
    return refused


def _unsupported(
    name: str,
    refused: dict[str, str],
    request: JobRequest,
    segments: Sequence[SegmentOptions],
    offers: Sequence[EngineInfo],
) -> ServiceError:
    able = sorted({o.name for o in offers if o.name != name and not _refused(request, segments, o)})
    remedy = f"request the engine {able[0]}" if able else "wait for a worker with an engine that does (`GET /engines`)"
    errors = [
        FieldError(pointer=f"#/{option.replace('.', '/')}", message=f"The engine {name} does not support {value}")
        for option, value in refused.items()
    ]
    values = ", ".join(f"{option}={value}" for option, value in refused.items())
    message = f"The engine {name} would run, and it does not support {values}. Leave it out, or {remedy}."
    return ServiceError("unsupported_option", message, errors=errors)
