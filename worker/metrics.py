"""Numbers about a result, from the library's evaluation, in the shapes of the job store."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from celery.exceptions import SoftTimeLimitExceeded

from jobs.models import MetricResult
from jobs.store import LeaseLostError
from retalking_core.errors import InputError, RenderCanceled
from retalking_core.evaluation.clip_scores import measured_curves
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metrics import METRICS, available_metrics, measure_all
from retalking_core.evaluation.models import EvaluationModels
from retalking_core.media.limits import MediaLimits
from retalking_core.media.probe import probe_audio, probe_video
from retalking_core.media.timeline import plan_timeline
from retalking_core.progress import ProgressHook, ignore_progress
from retalking_core.types import RenderReport
from retalking_core.vocabulary.options import JobOptions
from worker.shutdown import HandBackError


def metric_names() -> list[str]:
    """What a job may ask of this worker. Whatever lacks its checkpoint comes out null, with the reason."""
    return list(METRICS)


def measurement_of(
    result: Path,
    video: Path,
    speech: Path,
    report: RenderReport | None,
    options: JobOptions,
    limits: MediaLimits,
    models: EvaluationModels,
    progress: ProgressHook = ignore_progress,
) -> Measurement:
    """A render with what it was made from; frames are paired as the engines plan them (`media.timeline`)."""
    try:
        source = probe_video(video, limits, options.fps)
        speech_s = probe_audio(speech, limits).duration_s
        paired = plan_timeline(source, speech_s, options.length_mode, options.output.fps).source_index
    except InputError:
        paired = None
    return Measurement(result, speech, report, limits, video, paired, models, progress, options.output.badge)


def measure(measurement: Measurement, asked: Sequence[str] | None, tell: Callable[..., None]) -> list[MetricResult]:
    """asked: names; None: all whose checkpoints are there. An evaluation that breaks gives nulls with a reason: it must
    not cost the render. What the measurement's hook raises to stop the job does pass."""
    names = available_metrics(measurement.models) if asked is None else list(dict.fromkeys(asked))
    known = [name for name in names if name in METRICS]
    reasons = dict.fromkeys(names, "This worker does not know the metric.")
    found: dict[str, MetricResult] = {}
    try:
        found = {each.name: MetricResult(**asdict(each)) for each in measure_all(measurement, known)}
    except (SoftTimeLimitExceeded, MemoryError, RenderCanceled, LeaseLostError, HandBackError):
        raise
    except Exception as fault:
        tell(logging.ERROR, f"the evaluation broke: {type(fault).__name__}", exc_info=fault)
        reasons |= dict.fromkeys(known, "The evaluation broke; the log of the worker has the details.")
    return [found.get(name) or MetricResult(name=name, value=None, reason=reasons[name]) for name in names]


def write_curves(measurement: Measurement, target: Path, tell: Callable[..., None]) -> None:
    """The curves behind the numbers, as `EvaluationCurves` in JSON. Like the numbers, they must not cost the render."""
    try:
        document = json.dumps(asdict(measured_curves(measurement)), separators=(",", ":"), allow_nan=False)
    except (SoftTimeLimitExceeded, MemoryError):
        raise
    except Exception as fault:
        tell(logging.ERROR, f"the curves of the evaluation broke: {type(fault).__name__}", exc_info=fault)
        return
    target.write_text(document, encoding="ascii")
