"""Logging to stderr, one line per event, as JSON or as text for people. Secrets and full URLs are never logged.

Lines about a job carry `job` and `request` (the id of the request that submitted it), so that one search finds a job in
the logs of all processes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

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
