"""Numbers about a result, from the library's evaluation, in the shapes of the job store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from celery.exceptions import SoftTimeLimitExceeded

from jobs.models import MetricResult
from retalking_core.evaluation import METRICS, evaluate
from retalking_core.types import RenderReport


def metric_names() -> list[str]:
    """What this worker can compute."""
    return sorted(METRICS)


def measure(
    result: Path, speech: Path, report: RenderReport, asked: Sequence[str] | None, tell: Callable[..., None]
) -> list[MetricResult]:
    """asked: names, None for all. An evaluation that breaks gives nulls with a reason: it must not cost the render."""
    names = metric_names() if asked is None else list(asked)
    try:
        values = evaluate(result, speech, report, names)
    except (SoftTimeLimitExceeded, MemoryError):
        raise
    except Exception as fault:
        tell(logging.ERROR, f"the evaluation broke: {fault!r}", code="internal_error")
        return [MetricResult(name=name, value=None, reason="The evaluation broke; see the log.") for name in names]
    return [MetricResult(**vars(value)) for value in values]
