"""One call that computes any metrics of the table. What cannot be computed is None with a reason, never 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retalking_core.errors import InputError, MetricUnavailableError
from retalking_core.evaluation.clip import EvaluatedClip, EvaluationModels
from retalking_core.evaluation.frame_pass import LINES
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metric_table import METRICS, LineValue, Metric, MetricValue
from retalking_core.media.limits import DEFAULT_LIMITS, MediaLimits
from retalking_core.types import RenderReport, Waveform

# The face protocol looks for tracks and then at their crops; CSIM looks for points in the reference, and at both files.
NETWORK_PASSES = {"frame": 1, "face": 2, "csim": 3}
__all__ = ["METRICS", "Metric", "MetricValue", "available_metrics", "evaluate", "measure_all"]


def evaluate(
    result: Path,
    speech: Path | Waveform,
    report: RenderReport | None,
    metrics: Sequence[str],
    limits: MediaLimits = DEFAULT_LIMITS,
    reference: Path | None = None,
    source_index: NDArray[np.int64] | None = None,
    models: EvaluationModels | None = None,
) -> list[MetricValue]:
    """Measure a finished file, in the order asked. Raises: KeyError for a metric that is not in `METRICS`.

    For the other arguments see `Measurement`.
    """
    return measure_all(Measurement(result, speech, report, limits, reference, source_index, models), metrics)


def measure_all(
    measurement: Measurement, metrics: Sequence[str], also: frozenset[str] = frozenset()
) -> list[MetricValue]:
    """The same on a measurement that the caller keeps, for the curves behind the numbers. also: further looks at the
    pictures that the caller will want."""
    chosen = [METRICS[name] for name in metrics]
    measurement.reporter.parts = count_parts(measurement, chosen)
    looks = also | looks_of(measurement, metrics)
    apart = [metric for metric in chosen if metric.checkpoints and not metric.requires]
    found: dict[str, MetricValue] = {}
    if apart and looks:
        with _beside(lambda: measurement.look(looks), measurement.stop):
            found = {metric.name: _measure(metric, measurement) for metric in apart}
    else:
        measurement.look(looks)
    values = [found.get(metric.name) or _measure(metric, measurement) for metric in chosen]
    return _with_lines(values, measurement) if measurement.lines else values


def looks_of(clip: EvaluatedClip, metrics: Sequence[str]) -> frozenset[str]:
    """What these metrics need to observe in the frames, as far as their checkpoints are there."""
    chosen = [METRICS[name] for name in metrics]
    whole = (metric for metric in chosen if _has_files(clip.models, metric) and not _is_ambiguous(metric, clip))
    looks = frozenset[str]().union(*(metric.requires for metric in whole))
    return looks | {LINES} if clip.lines and any(metric.is_per_line for metric in chosen) else looks


def _is_ambiguous(metric: Metric, clip: EvaluatedClip) -> bool:
    """Whether it is about one face of several that speak."""
    return len(clip.speakers) > 1 and metric.is_about_one_face


def _with_lines(values: Sequence[MetricValue], measurement: Measurement) -> list[MetricValue]:
    """The values with those of each line, where lines have them."""
    per_line = [value for value in values if METRICS[value.name].is_per_line]
    found: dict[str, list[LineValue]] = {value.name: [] for value in per_line}
    if per_line:
        try:
            lines = measurement.of_lines
        except (InputError, MetricUnavailableError) as error:
            reason = error.message if isinstance(error, InputError) else error.reason
            found = {name: [LineValue(None, reason)] * len(measurement.lines) for name in found}
            lines = []
        for line in measurement.reporter.watch(lines, len(lines)):
            for name, numbers in found.items():
                one = _measure(METRICS[name], line)
                numbers.append(LineValue(one.value, one.reason))
    return [replace(value, lines=tuple(found.get(value.name, ()))) for value in values]


@contextmanager
def _beside(work: Callable[[], None], stop: Callable[[], None]) -> Iterator[None]:
    """The work in a thread of its own during the block, whose end waits for it; an error in the block stops it.

    The networks stay in the calling thread: CUDA's libraries keep their plans by thread.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="evaluation") as pool:
        working = pool.submit(work)
        try:
            yield
        except BaseException:
            stop()
            raise
    working.result()


def count_parts(clip: EvaluatedClip, chosen: Sequence[Metric]) -> int:
    """About how many passes there will be: one over the pictures for all looks, those of the networks, and one over the
    lines."""
    ready = (
        each for each in chosen if each.checkpoints and _has_files(clip.models, each) and not _is_ambiguous(each, clip)
    )
    return (
        1
        + bool(clip.lines)
        + sum(NETWORK_PASSES.get(kind, 1) for kind in {each.name.rsplit("_", 1)[-1] for each in ready})
    )


def available_metrics(models: EvaluationModels | None, has_reference: bool = True) -> list[str]:
    """Names of the metrics for which everything they need is there."""
    return [
        name
        for name, metric in METRICS.items()
        if (has_reference or not metric.needs_reference) and _has_files(models, metric)
    ]


def _has_files(models: EvaluationModels | None, metric: Metric) -> bool:
    return all(models is not None and models.has(file) for file in metric.checkpoints)


def _measure(metric: Metric, measurement: Measurement) -> MetricValue:
    try:
        if _is_ambiguous(metric, measurement):
            several = f"it is about one face, and {len(measurement.speakers)} speak in this result"
            raise MetricUnavailableError(f"{several}: see `segments`" if metric.is_per_line else several)
        outcome = metric.compute(measurement)
    except InputError as error:
        outcome = error.message
    except MetricUnavailableError as error:
        outcome = error.reason
    if isinstance(outcome, str):
        return MetricValue(metric.name, None, outcome, metric.unit, metric.better)
    value, detail = outcome
    return MetricValue(metric.name, value, None, metric.unit, metric.better, detail)
