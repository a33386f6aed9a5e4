"""Between the shapes of the job store and those of the library: options in; result, metrics and notes out."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from jobs.models import AudioTrackInfo, DecodedInput, MetricResult, RenderInfo, RenderNote, ResultInfo
from jobs.store import LeaseLostError
from retalking_core.clip_plan import ClipPlan
from retalking_core.errors import RenderCanceled
from retalking_core.evaluation.clip import EvaluationModels
from retalking_core.evaluation.clip_scores import measured_curves
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metrics import METRICS, available_metrics, measure_all
from retalking_core.media.limits import MediaLimits
from retalking_core.notes import Note
from retalking_core.options import RenderOptions
from retalking_core.progress import ProgressHook, ignore_progress
from retalking_core.types import RenderReport
from retalking_core.vocabulary.containers import OUTPUTS, InputSlot, OutputContainer
from retalking_core.vocabulary.options import JobOptions
from worker.lease import ShutdownRequestedError


def render_options(options: JobOptions, expression_image: Path | None, owner: str = "") -> RenderOptions:
    """Options of a job, for an engine.

    expression_image: the fetched picture, if the job has one; it replaces the name of a template. owner: of the job;
    the face cache keeps the entries of each owner apart.
    """
    return RenderOptions(
        expression=str(expression_image) if expression_image else options.expression,
        upper_face=options.upper_face,
        length_mode=options.length_mode,
        face=options.face,
        missing_face=options.missing_face,
        crop=astuple(options.crop),
        pads=astuple(options.pads),
        one_shot=options.one_shot,
        fps=options.fps,
        output=options.output,
        seed=options.seed,
        audio_track=options.audio_track,
        face_cache_scope=owner,
    )


def result_info(path: Path, key: str, container: OutputContainer, report: RenderReport) -> ResultInfo:
    """Describes the file at `path`, which will be published under `key`."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ResultInfo(
        key=key,
        content_type=OUTPUTS[container].content_type,
        size_bytes=path.stat().st_size,
        sha256=sha256,
        duration_s=report.duration_s,
        width=report.width,
        height=report.height,
        fps=float(report.fps),
        frames=report.frames,
    )


def render_notes(notes: Iterable[Note]) -> list[RenderNote]:
    return [RenderNote(code=note.code, sentence=note.sentence, ranges_s=list(note.ranges_s)) for note in notes]


def core_notes(notes: Iterable[RenderNote]) -> list[Note]:
    """The inverse of `render_notes`."""
    return [Note(note.code, note.sentence, tuple(note.ranges_s)) for note in notes]


def render_info(report: RenderReport, clip: ClipPlan, digests: Mapping[InputSlot, str]) -> RenderInfo:
    """digests: SHA-256 of the inputs, by part."""
    info = clip.source.info
    size = {"width": info.width, "height": info.height, "fps": float(info.fps)}
    facts: dict[InputSlot, dict[str, Any]] = {
        "video": {"duration_s": 0.0 if info.is_still else info.duration_s, **size},
        "audio": {"duration_s": clip.speech.duration_s},
        "expression": {"duration_s": 0.0},
    }
    return RenderInfo(
        engine=report.engine,
        engine_version=report.engine_version,
        device=report.device,
        face_coverage=report.face_coverage,
        faceless_ranges_s=report.faceless_ranges_s,
        stage_times_s=report.stage_times_s,
        synthetic_weights=report.synthetic_weights,
        notes=render_notes(report.notes),
        face_cache=report.face_cache,
        audio_track=None if report.audio_track is None else AudioTrackInfo(**asdict(report.audio_track)),
        inputs={slot: DecodedInput(sha256=sha256, **facts[slot]) for slot, sha256 in digests.items()},
    )


def metric_names() -> list[str]:
    """Metrics that a job may request of this worker. One whose checkpoint is missing is null, with the reason."""
    return list(METRICS)


def measurement_of(
    result: Path,
    clip: ClipPlan,
    report: RenderReport | None,
    options: JobOptions,
    limits: MediaLimits,
    models: EvaluationModels,
    progress: ProgressHook = ignore_progress,
) -> Measurement:
    """A render with its inputs; frames are paired as in the clip's timeline."""
    paired = clip.timeline.source_index
    speech, badge = clip.speech.waveform, options.output.badge
    return Measurement(result, speech, report, limits, clip.video, paired, models, progress, badge)


def measure(measurement: Measurement, requested: Sequence[str] | None, log: Callable[..., None]) -> list[MetricResult]:
    """Compute metrics. A failed evaluation gives nulls with a reason: it must not cost the render.

    requested: names; None: all whose checkpoints are present. log: called with level, message and `exc_info`. Raises
    what the measurement's progress hook raises to stop the job.
    """
    names = available_metrics(measurement.models) if requested is None else list(dict.fromkeys(requested))
    known = [name for name in names if name in METRICS]
    reasons = dict.fromkeys(names, "This worker does not know the metric.")
    found: dict[str, MetricResult] = {}
    try:
        found = {each.name: MetricResult(**asdict(each)) for each in measure_all(measurement, known)}
    except (SoftTimeLimitExceeded, MemoryError, RenderCanceled, LeaseLostError, ShutdownRequestedError):
        raise
    except Exception as fault:
        log(logging.ERROR, f"evaluation failed: {type(fault).__name__}", exc_info=fault)
        reasons |= dict.fromkeys(known, "The evaluation failed; the log of the worker has the details.")
    return [found.get(name) or MetricResult(name=name, value=None, reason=reasons[name]) for name in names]


def write_curves(measurement: Measurement, target: Path, log: Callable[..., None]) -> None:
    """The curves behind the metrics, as `EvaluationCurves` in JSON. Like the metrics, they must not cost the render."""
    try:
        document = json.dumps(asdict(measured_curves(measurement)), separators=(",", ":"), allow_nan=False)
    except (SoftTimeLimitExceeded, MemoryError):
        raise
    except Exception as fault:
        log(logging.ERROR, f"evaluation curves failed: {type(fault).__name__}", exc_info=fault)
        return
    target.write_text(document, encoding="ascii")
