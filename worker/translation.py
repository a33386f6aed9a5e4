"""Between the shapes of the job store and those of the library: options in; result, metrics and errors out."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from celery.exceptions import SoftTimeLimitExceeded

from jobs.errors import ERROR_CODES, ServiceError, is_thread_shortage
from jobs.models import (
    AudioTrackInfo,
    ErrorInfo,
    FaceBox,
    FacePoint,
    JobOptions,
    MetricResult,
    RenderInfo,
    RenderNote,
    ResultInfo,
)
from jobs.objects import ObjectNotFoundError, ObjectStoreError, ObjectStoreFullError
from jobs.store import LeaseLostError
from retalking_core.clip_plan import ClipPlan
from retalking_core.errors import InputError, RenderCanceled, RetalkingError
from retalking_core.evaluation.clip_scores import measured_curves
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metrics import METRICS, available_metrics, measure_all
from retalking_core.evaluation.models import EvaluationModels
from retalking_core.media.limits import MediaLimits
from retalking_core.notes import Note
from retalking_core.options import FaceAtPoint, FaceChoice, FaceInBox, OutputOptions, RenderOptions
from retalking_core.progress import ProgressHook, ignore_progress
from retalking_core.types import RenderReport
from worker.lease import ShutdownRequestedError

CONTENT_TYPES = {"mp4": "video/mp4", "mov": "video/quicktime", "mkv": "video/x-matroska"}


def render_options(options: JobOptions, expression_image: Path | None, owner: str = "") -> RenderOptions:
    """Options of a job, for an engine.

    expression_image: the fetched picture, if the job has one; it replaces the name of a template. owner: of the job;
    the face cache keeps the entries of each owner apart.
    """
    crop, pads, output = options.crop, options.pads, options.output
    return RenderOptions(
        expression=str(expression_image) if expression_image else options.expression,
        upper_face=options.upper_face,
        length_mode=options.length_mode,
        face=_face_choice(options),
        missing_face=options.missing_face,
        crop=(crop.left, crop.top, crop.right, crop.bottom),
        pads=(pads.top, pads.bottom, pads.left, pads.right),
        one_shot=options.one_shot,
        fps=options.fps,
        output=OutputOptions(output.crf, output.max_height, output.container, output.fps, output.badge),
        seed=options.seed,
        audio_track=options.audio_track,
        face_cache_scope=owner,
    )


def _face_choice(options: JobOptions) -> FaceChoice:
    face = options.face
    if isinstance(face, FacePoint):
        return FaceAtPoint(face.x, face.y, face.time_s)
    if isinstance(face, FaceBox):
        return FaceInBox(face.left, face.top, face.right, face.bottom)
    return face


def result_info(path: Path, key: str, container: str, report: RenderReport) -> ResultInfo:
    """Describes the file at `path`, which will be published under `key`."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ResultInfo(
        key=key,
        content_type=CONTENT_TYPES[container],
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


def render_info(report: RenderReport) -> RenderInfo:
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


_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

# The first matching row decides. Messages of other libraries may contain paths and addresses: none is passed on.
_SENTENCES: tuple[tuple[type[BaseException], str, str], ...] = (
    (SoftTimeLimitExceeded, "render_timeout", "The render ran past the time that one attempt may take."),
    (ObjectNotFoundError, "storage_failed", "An input file of the job is no longer in the object store."),
    (ObjectStoreFullError, "storage_full", "The object store has no room for the job's files."),
    (ObjectStoreError, "storage_failed", "The object store did not take or give a file."),
)

# Codes that a part may report when its allocation was refused. A thread that cannot be started is a sign of it as well:
# its stack counts against the limit.
_MAY_BE_MEMORY = frozenset({"media_unreadable", "internal_error", "threads_exhausted"})


def describe_fault(fault: BaseException, *, is_memory_full: bool = False) -> ErrorInfo:
    """The public form of an exception: code, sentence, and whether a new submission can help.

    is_memory_full: the process was at its limit when the exception was caught.
    """
    info = _describe(fault)
    return _OUT_OF_MEMORY if is_memory_full and info.code in _MAY_BE_MEMORY else info


def _describe(fault: BaseException) -> ErrorInfo:
    # First: a full disk or memory may be the cause of another error, of the library that could not write its result.
    # Not of a full object store: that is about the disk of the store.
    if not isinstance(fault, ObjectStoreFullError) and any(
        isinstance(each, OSError) and each.errno in _DISK_FULL for each in (fault, fault.__cause__)
    ):
        return _info("disk_full", "The worker's disk is full.")
    # Not while an input is read: FFmpeg reports "no memory" for the sizes that a broken header requests.
    if not isinstance(fault, InputError) and any(isinstance(each, MemoryError) for each in (fault, fault.__cause__)):
        return _OUT_OF_MEMORY
    if _is_thread_shortage(fault):
        return _info("threads_exhausted", "The worker's machine could start no more threads.")
    if isinstance(fault, RetalkingError | ServiceError) and fault.code in ERROR_CODES:
        return _info(fault.code, fault.message)
    for kind, code, sentence in _SENTENCES:
        if isinstance(fault, kind):
            return _info(code, sentence)
    return _info("internal_error", "The job failed for a reason that is not the input's; the details are in the log.")


def is_transient(fault: BaseException) -> bool:
    """True if another attempt at the same job may succeed: object store unreachable, or threads exhausted."""
    return isinstance(fault, ObjectStoreError) or _is_thread_shortage(fault)


def _is_thread_shortage(fault: BaseException) -> bool:
    """Also inside the error of the library that could not write its result."""
    return any(is_thread_shortage(each) for each in (fault, fault.__cause__) if each is not None)


def is_unexpected(error: ErrorInfo) -> bool:
    """False for what the caller or the environment caused: one log line, no traceback."""
    return error.code in {"internal_error", "engine_fault"}


def _info(code: str, message: str) -> ErrorInfo:
    return ErrorInfo(code=code, message=message, retryable=ERROR_CODES[code].retryable)


_OUT_OF_MEMORY = _info("out_of_memory", "The worker ran out of memory.")
