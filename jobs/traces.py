"""OpenTelemetry traces across API, queue and workers; disabled unless an endpoint is set.

The trace context of a submission is stored with its job, not in the message: other processes may send the message
again, and each attempt and delivery belongs to the submitting request. Spans carry ids and codes, never URLs or
metadata.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

from jobs.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

SpanKind = Literal["internal", "server", "client", "producer", "consumer"]


class TracesUnavailableError(Exception):
    """An endpoint for traces is set, but the packages that send them are not installed."""


class _Traces:
    """State of the process. tracer: None while tracing is disabled."""

    tracer: Tracer | None = None


_stage: ContextVar[list[Span] | None] = ContextVar("stage", default=None)


def start_traces(settings: Settings, service: str) -> None:
    """service: `api`, `render-worker` or `webhook-worker`. A process that forks must call it in the child: the exporter
    has a thread, which does not survive the fork. Remaining spans are sent at exit."""
    if not settings.traces_endpoint:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TracesUnavailableError(
            f"RETALKING_TRACES_ENDPOINT is set, but {error.name} is missing: pip install 'retalking[traces]'"
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": f"retalking-{service}"}))
    exporter = OTLPSpanExporter(endpoint=f"{settings.traces_endpoint.rstrip('/')}/v1/traces", timeout=5)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    _Traces.tracer = provider.get_tracer("retalking")


@contextmanager
def span(
    name: str, *, kind: SpanKind = "internal", parent: str = "", **attributes: str | int | float
) -> Iterator[Span | None]:
    """A span around the block; None while tracing is disabled. parent: a `traceparent`; empty: the current span."""
    tracer = _Traces.tracer
    if tracer is None:
        yield None
        return
    from opentelemetry.trace import SpanKind as Kind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
    named = {f"retalking.{key}": value for key, value in attributes.items()}
    with tracer.start_as_current_span(name, context, kind=Kind[kind.upper()], attributes=named) as opened:
        yield opened


def current_traceparent() -> str:
    """W3C trace context of the current span; empty while tracing is disabled."""
    if _Traces.tracer is None:
        return ""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent", "")


@contextmanager
def staged() -> Iterator[None]:
    """Inside the block, each enter_stage() starts a span that lasts until the next one or the end of the block."""
    open_stages: list[Span] = []
    token = _stage.set(open_stages)
    try:
        yield
    finally:
        _stage.reset(token)
        for stage in open_stages:
            stage.end()


def enter_stage(name: str) -> None:
    stages = _stage.get()
    if _Traces.tracer is None or stages is None:
        return
    while stages:
        stages.pop().end()
    stages.append(_Traces.tracer.start_span(name))
