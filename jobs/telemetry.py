"""What a process reports about itself: log lines, and OpenTelemetry traces across API, queue and workers.

Traces are disabled unless an endpoint is set. The trace context of a submission is stored with its job, not in the
message: other processes may send the message again, and each attempt and delivery belongs to the submitting request.
Spans carry ids and codes, never URLs or metadata.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer


LogFormat = Literal["json", "text"]

# Fields that `extra=` may add to a line.
_FIELDS = (
    "job",
    "attempt",
    "segment",
    "worker",
    "delivery",
    "event",
    "code",
    "status",
    "seconds",
    "count",
    "host",
    "step",
)
# These log URLs (httpx: the whole query) or a line per connection.
_QUIET = ("httpx", "httpcore", "botocore", "boto3", "urllib3", "s3transfer", "opentelemetry")
_subject: ContextVar[dict[str, str]] = ContextVar("subject", default={})  # noqa: B039  # never changed in place


@contextmanager
def log_context(**fields: str) -> Iterator[None]:
    """Lines logged inside the block carry these fields: `job`, `request`. Empty ones are left out."""
    token = _subject.set(_subject.get() | {name: value for name, value in fields.items() if value})
    try:
        yield
    finally:
        _subject.reset(token)


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        line |= _subject.get()
        line |= _extras(record)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # name defined by logging
        tags = _subject.get() | _extras(record)
        return " ".join([super().formatMessage(record), *(f"{name}={value}" for name, value in tags.items())])


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}


def configure_logging(log_format: LogFormat = "json", level: int = logging.INFO) -> None:
    """Log everything to stderr. May be called repeatedly (Celery does, in each child)."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


SpanKind = Literal["internal", "server", "client", "producer", "consumer"]


class TracesUnavailableError(Exception):
    """An endpoint for traces is set, but the packages that send them are not installed."""


class _Traces:
    """State of the process. tracer: None while tracing is disabled."""

    tracer: Tracer | None = None


_stage: ContextVar[list[Span] | None] = ContextVar("stage", default=None)


def start_traces(endpoint: str, service: str) -> None:
    """Does nothing without an endpoint. service: `api`, `render-worker` or `webhook-worker`. A process that forks must
    call it in the child: the exporter has a thread, which does not survive the fork. Remaining spans are sent at
    exit."""
    if not endpoint:
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
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=5)
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
