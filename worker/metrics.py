"""Numbers about a result, from the library's evaluation, in the shapes of the job store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from celery.exceptions import SoftTimeLimitExceeded

from jobs.models import MetricResult
from retalking_core.evaluation.metrics import METRICS, evaluate
from retalking_core.media.limits import MediaLimits
from retalking_core.types import RenderReport


def metric_names() -> list[str]:
    """What this worker can compute."""
    return list(METRICS)


def measure(
    result: Path,
    speech: Path,
    report: RenderReport,
    asked: Sequence[str] | None,
    limits: MediaLimits,
    tell: Callable[..., None],
) -> list[MetricResult]:
    """asked: names, None for all. An evaluation that breaks gives nulls with a reason: it must not cost the render."""
    names = metric_names() if asked is None else list(dict.fromkeys(asked))
    known = [name for name in names if name in METRICS]
    reasons = dict.fromkeys(names, "This worker does not know the metric.")
    found: dict[str, MetricResult] = {}
    try:
        found = {each.name: MetricResult(**asdict(each)) for each in evaluate(result, speech, report, known, limits)}
    except (SoftTimeLimitExceeded, MemoryError):
        raise
    except Exception as fault:
        tell(logging.ERROR, f"the evaluation broke: {type(fault).__name__}", exc_info=fault)
        reasons |= dict.fromkeys(known, "The evaluation broke; the log of the worker has the details.")
    return [found.get(name) or MetricResult(name=name, value=None, reason=reasons[name]) for name in names]
