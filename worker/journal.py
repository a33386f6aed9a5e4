"""One line of JSON per event on stderr. Lines about a job carry `job`; no secret and no whole address is written."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

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
    "key",
)
# These write addresses (httpx: the whole query) or a line per connection.
_QUIET = ("httpx", "httpcore", "botocore", "boto3", "urllib3", "s3transfer")


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def write_journal(level: int = logging.INFO) -> None:
    """Send everything to stderr as JSON lines. May be called again (Celery does, in each child)."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
