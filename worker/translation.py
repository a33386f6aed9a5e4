"""Between the shapes of the job store and those of the library: options in; result, metrics and notes out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from celery.exceptions import SoftTimeLimitExceeded
from numpy.typing import NDArray

from jobs.models import (
    AudioTrackInfo,
    DecodedInput,
    InputPart,
    JobSpec,
    MetricResult,
    RenderInfo,
    RenderNote,
    ResultInfo,
    SegmentInfo,
    SegmentValue,
)
from jobs.store import LeaseLostError
from retalking_core.clip_plan import ClipPlan, LineInput
from retalking_core.digests import file_sha256
from retalking_core.errors import RenderCanceled
from retalking_core.evaluation.clip import EvaluationModels
from retalking_core.evaluation.measurement import EarlyLooks, Measurement
from retalking_core.evaluation.metrics import METRICS, MetricValue, available_metrics, looks_of, measure_all
from retalking_core.evaluation.scores import measured_curves
from retalking_core.media.limits import MediaLimits
from retalking_core.media.tap import ResultTap
from retalking_core.notes import Note
from retalking_core.options import RenderOptions
from retalking_core.progress import ProgressHook, ignore_progress
from retalking_core.types import AudioTrack, LineReport, RenderReport
from retalking_core.vocabulary.containers import OUTPUTS, OutputContainer
from retalking_core.vocabulary.options import EXPRESSION_IMAGE, JobOptions
from worker.lease import ShutdownRequestedError
from worker.scratch import Inputs


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
        sound=options.sound,
        seed=options.seed,
        audio_track=options.audio_track,
        transcript=options.transcript,
        face_cache_scope=owner,
    )


def spoken(spec: JobSpec, inputs: Inputs) -> Path | list[LineInput]:
    """The speech of a job, for `plan_clip`."""
    if not spec.segments:
        return inputs.paths["audio"]

    def expression(name: str | None) -> str | None:
        return str(inputs.expression_image) if name == EXPRESSION_IMAGE else name

    return [
        LineInput(
            inputs.paths[each.audio],
            each.start_s,
            each.end_s,
            each.audio_offset_s,
            each.face,
            expression(each.expression),
            each.upper_face,
        )
        for each in spec.segments
    ]


def result_info(path: Path, key: str, container: OutputContainer, report: RenderReport) -> ResultInfo:
    """Describes the file at `path`, which will be published under `key`."""
    return ResultInfo(
        key=key,
        content_type=OUTPUTS[container].content_type,
        size_bytes=path.stat().st_size,
        sha256=file_sha256(path),
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


def render_info(report: RenderReport, clip: ClipPlan, inputs: Inputs) -> RenderInfo:
    info = clip.source.info
    size = {"width": info.width, "height": info.height, "fps": float(info.fps)}

    def facts(part: InputPart) -> dict[str, Any]:
        if part == "video":
            return {"duration_s": 0.0 if info.is_still else info.duration_s, **size}
        heard = clip.files.get(inputs.paths[part])
        if heard is None:
            return {"duration_s": 0.0}
        return {"duration_s": heard.duration_s, "audio_track": _track_info(heard.track)}

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
        kernels=report.kernels,
        audio_track=_track_info(report.audio_track),
        inputs={part: DecodedInput(sha256=sha256, **facts(part)) for part, sha256 in inputs.digests.items()},
        segments=[_segment_info(line) for line in report.lines] if clip.has_lines else [],
    )


def _track_info(track: AudioTrack | None) -> AudioTrackInfo | None:
    return None if track is None else AudioTrackInfo(**asdict(track))


def _segment_info(line: LineReport) -> SegmentInfo:
    seen = np.asarray(np.isfinite(line.face_boxes).all(axis=1))
    return SegmentInfo(
        start_s=line.start_s,
        end_s=line.end_s,
        face_coverage=float(seen.mean()) if seen.size else 0.0,
        face_box=[float(side) for side in np.median(line.face_boxes[seen], axis=0)] if seen.any() else None,
    )


def metric_names() -> list[str]:
    """Metrics that a job may request of this worker. One whose checkpoint is missing is null, with the reason."""
    return list(METRICS)


# Names in the file of `Targets`.
LINE_TIMES, LINE_FRAMES, LINE_BOXES, LINE_TARGET = "line_times_s", "line_first_frames", "line_boxes", "line_target"


@dataclass(frozen=True)
class Targets:
    """What the metrics need of a `RenderReport`: the parts that are about single frames, under the names that
    `EvaluatedClip` has for them."""

    stored_mouth_target: NDArray[np.float32] | None = None
    face_boxes: NDArray[np.float32] | None = None
    stored_lines: tuple[LineReport, ...] = ()

    @classmethod
    def of(cls, report: RenderReport) -> Targets:
        return cls(report.mouth_target, report.face_boxes, report.lines)

    @classmethod
    def load(cls, path: Path) -> Targets:
        with np.load(path, allow_pickle=False) as stored:
            known: dict[str, NDArray[Any]] = dict(stored)
        times_s, first_frames = (known.get(name, np.empty(0)).tolist() for name in (LINE_TIMES, LINE_FRAMES))
        lines = (
            LineReport(
                number, start_s, end_s, first, known[f"{LINE_BOXES}_{number}"], known.get(f"{LINE_TARGET}_{number}")
            )
            for number, ((start_s, end_s), first) in enumerate(zip(times_s, first_frames, strict=True))
        )
        return cls(known.get("stored_mouth_target"), known.get("face_boxes"), tuple(lines))

    def save(self, path: Path) -> None:
        """An npz file; the arrays of each line are named by its number."""
        lines = self.stored_lines
        arrays: dict[str, NDArray[Any] | None] = {
            "stored_mouth_target": self.stored_mouth_target,
            "face_boxes": self.face_boxes,
        }
        if lines:
            arrays[LINE_TIMES] = np.array([(line.start_s, line.end_s) for line in lines])
            arrays[LINE_FRAMES] = np.array([line.first_frame for line in lines])
        for line in lines:
            arrays[f"{LINE_BOXES}_{line.number}"] = line.face_boxes
            arrays[f"{LINE_TARGET}_{line.number}"] = line.mouth_target
        known: dict[str, Any] = {name: array for name, array in arrays.items() if array is not None}
        with path.open("wb") as file:
            np.savez(file, **known)


def measurement_of(
    result: Path,
    clip: ClipPlan,
    report: RenderReport | None,
    options: JobOptions,
    limits: MediaLimits,
    models: EvaluationModels,
    progress: ProgressHook = ignore_progress,
    early: EarlyLooks | None = None,
    targets: Targets | None = None,
) -> Measurement:
    """A render with its inputs; frames are paired as in the clip's timeline. report: None before the render, and where
    another process rendered: then `targets` are what is left of it."""
    paired = clip.timeline.source_index
    speech, badge = clip.speech, options.output.badge
    known = (result, speech, report, limits, clip.video, paired, models, progress, badge)
    speakers = clip.speakers if clip.has_lines else ()
    return Measurement(*known, early=early, speakers=speakers, **vars(targets or Targets()))


def early_looks(
    result: Path, clip: ClipPlan, options: JobOptions, limits: MediaLimits, models: EvaluationModels, tap: ResultTap
) -> EarlyLooks:
    """What the metrics of a job can observe while it is rendered. tap: of the clip."""
    names = metrics_of(models, options.evaluate)
    draft = measurement_of(result, clip, None, options, limits, models)
    return EarlyLooks(draft, looks_of(draft, [name for name in names if name in METRICS]), tap)


def metrics_of(models: EvaluationModels | None, requested: Sequence[str] | None) -> list[str]:
    """Names of the metrics of a job. requested: names; None: all whose checkpoints are present."""
    return available_metrics(models) if requested is None else list(dict.fromkeys(requested))


def measure(measurement: Measurement, requested: Sequence[str] | None, log: Callable[..., None]) -> list[MetricResult]:
    """Compute metrics. A failed evaluation gives nulls with a reason: it must not cost the render.

    requested: see `metrics_of`. log: called with level, message and `exc_info`. Raises
    what the measurement's progress hook raises to stop the job.
    """
    names = metrics_of(measurement.models, requested)
    known = [name for name in names if name in METRICS]
    reasons = dict.fromkeys(names, "This worker does not know the metric.")
    found: dict[str, MetricResult] = {}
    try:
        found = {each.name: metric_result(each) for each in measure_all(measurement, known)}
    except (SoftTimeLimitExceeded, MemoryError, RenderCanceled, LeaseLostError, ShutdownRequestedError):
        raise
    except Exception as fault:
        log(logging.ERROR, f"evaluation failed: {type(fault).__name__}", exc_info=fault)
        reasons |= dict.fromkeys(known, "The evaluation failed; the log of the worker has the details.")
    return [found.get(name) or MetricResult(name=name, value=None, reason=reasons[name]) for name in names]


def metric_result(metric: MetricValue) -> MetricResult:
    fields = asdict(metric)
    return MetricResult(segments=[SegmentValue(**line) for line in fields.pop("lines")], **fields)


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
