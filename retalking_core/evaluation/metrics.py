"""The table of metrics, each row of the vocabulary with the function that computes it, and one call that computes any
of them. What cannot be computed is None with a reason, never 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.audio.visemes import recognize_visemes
from retalking_core.errors import InputError, MetricUnavailableError
from retalking_core.evaluation.clip import EvaluatedClip, EvaluationModels
from retalking_core.evaluation.frame_pass import LINES, REFERENCE_POINTS, spread
from retalking_core.evaluation.frames import Picture
from retalking_core.evaluation.image_quality import BLOCK_PX
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.sync import MouthSync, SyncScore, measure_agreement, measure_sync
from retalking_core.faces.landmarks import MOUTH, RIGID, face_scale, fit_similarity, five_points, relative_gap
from retalking_core.media.limits import DEFAULT_LIMITS, MediaLimits
from retalking_core.media.planes import even_box, region_to_bgr
from retalking_core.media.sound import packet_duration_s
from retalking_core.types import ColorTags, Frame, FrameSource, RenderReport, Waveform
from retalking_core.vocabulary.metrics import METRIC_TABLE, Better, MetricInfo

Detail = dict[str, float]
POINTS = frozenset({"points"})
Outcome = tuple[float, Detail] | str
"""A value with what stands behind it, or the sentence that says why there is none."""


@dataclass(frozen=True)
class LineValue:
    """The same number about one line of a render: its face on its frames against its speech."""

    value: float | None
    reason: str | None


@dataclass(frozen=True)
class MetricValue:
    """One number about a render. value None: not computable, `reason` says why. detail: what stands behind it. lines:
    of each line, in the caller's order; empty for a metric of the whole picture and for a render without lines."""

    name: str
    value: float | None
    reason: str | None
    unit: str
    better: Better
    detail: Detail = field(default_factory=dict)
    lines: tuple[LineValue, ...] = ()


@dataclass(frozen=True)
class Metric(MetricInfo):
    """A row of the vocabulary's table, and how its value is computed.

    compute: the value with its details, or the reason why there is none. requires: observations of the frames that it
    needs (`frame_pass`); all metrics share one pass.
    """

    compute: Callable[[Measurement], Outcome] = field(kw_only=True)
    requires: frozenset[str] = frozenset()

    @property
    def is_about_one_face(self) -> bool:
        """Means nothing for a result in which several faces speak."""
        return self.requires >= POINTS or "syncnet" in self.checkpoints

    @property
    def is_per_line(self) -> bool:
        """Whether each line has a value of its own: the points of its face say all."""
        return self.requires == POINTS


def measured(name: str, compute: Callable[[Measurement], Outcome], requires: frozenset[str] = frozenset()) -> Metric:
    """The metric of that name in `METRIC_TABLE`."""
    return Metric(**vars(METRIC_TABLE[name]), compute=compute, requires=requires)


# How the mouth follows the speech, and what needs neither a reference nor a checkpoint.


def _target_sync(measurement: Measurement) -> MouthSync | str:
    target = measurement.mouth_target
    if target is None:
        return "the engine states no mouth target"
    return measure_sync(measurement.mouth_opening, target)


def _speech_sync(measurement: Measurement) -> MouthSync | str:
    return measure_sync(measurement.mouth_opening, measurement.speech_level)


def _correlation(sync: MouthSync | str) -> tuple[float, dict[str, float]] | str:
    if isinstance(sync, str):
        return sync
    detail = {"lag_frames": sync.lag_frames, "unshifted": sync.correlation_unshifted, "frames": sync.frames}
    return sync.correlation, detail


def _lag(sync: MouthSync | str) -> tuple[float, dict[str, float]] | str:
    return sync if isinstance(sync, str) else (float(sync.lag_frames), {"correlation": sync.correlation})


def _viseme_agreement(measurement: Measurement) -> Outcome:
    visemes = recognize_visemes(measurement.waveform, report=measurement.reporter.report_share)
    agreement = measure_agreement(relative_gap(measurement.landmarks), float(measurement.video.info.fps), visemes)
    return agreement if isinstance(agreement, str) else (agreement.share, agreement.detail)


def _face_coverage(measurement: Measurement) -> tuple[float, dict[str, float]]:
    seen = np.isfinite(measurement.mouth_opening)
    return float(seen.mean()), {"frames": len(seen), "frames_with_face": int(seen.sum())}


def _duration_difference(measurement: Measurement) -> tuple[float, dict[str, float]]:
    video = measurement.video.info
    audio_s = packet_duration_s(measurement.result, measurement.limits)
    difference = (video.duration_s - audio_s) * float(video.fps)
    return abs(difference), {"video_s": video.duration_s, "audio_s": audio_s}


# The pictures: similarity, sharpness, steadiness, presence.

JITTER_LEAST_FRAMES = 3


def _ssim(measurement: Measurement) -> Outcome:
    scores = measurement.ssim_per_frame
    if len(scores) == 0:
        return "no frame of both videos decodes"
    counts = {
        "frames": len(scores),
        "frames_result": measurement.video.info.frame_count,
        "frames_reference": measurement.reference_video.info.frame_count,
    }
    return float(scores.mean()), counts | {"lowest": float(scores.min()), "lowest_frame": int(scores.argmin())}


def _psnr_outside(measurement: Measurement) -> Outcome:
    error = measurement.outside_error
    if error.frames == 0:
        return "no face is seen, so nothing is outside it"
    if error.pixels == 0:
        return "the face fills the picture, so nothing is outside it"
    if error.squared == 0:
        return f"the {error.frames} frames are equal outside the face: PSNR is infinite"
    return error.psnr_db, {"frames": error.frames, "rms_levels": float(np.sqrt(error.squared / error.pixels))}


def _cpbd(measurement: Measurement) -> Outcome:
    seen = np.flatnonzero(np.isfinite(measurement.landmarks[:, 0, 0]))
    if len(seen) == 0:
        return "no face is seen"
    values = [value for value in measurement.face_sharpness(spread(seen)) if value is not None]
    if not values:
        return f"the face is smaller than {BLOCK_PX} px, one block of the measure"
    return float(np.mean(values)), {"frames": len(values)}


def _jitter(measurement: Measurement) -> Outcome:
    marks = measurement.landmarks
    if not np.isfinite(marks[:, 0, 0]).any():
        return "no face is seen"
    scale = face_scale(marks)
    bend = np.linalg.norm(marks[:-2] - 2 * marks[1:-1] + marks[2:], axis=-1) / scale[1:-1, None] * 100
    whole = np.isfinite(bend).all(axis=1)
    if whole.sum() < JITTER_LEAST_FRAMES:
        return f"the face is seen on too few frames in a row ({int(whole.sum()) + 2})"
    bend = bend[whole]
    return float(bend[:, RIGID].mean()), {"mouth": float(bend[:, MOUTH].mean()), "frames": int(whole.sum())}


def _faceless(measurement: Measurement) -> Outcome:
    """Ranges are listed as start_1_s, end_1_s, ...; the ten longest."""
    missing = np.isnan(measurement.landmarks[:, 0, 0])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], missing, [False]]))).reshape(-1, 2)
    fps = float(measurement.video.info.fps)
    longest = sorted(edges.tolist(), key=lambda span: span[0] - span[1])[:10]
    detail: dict[str, float] = {"ranges": len(edges)}
    for number, (start, end) in enumerate(sorted(longest), 1):
        detail |= {f"start_{number}_s": round(start / fps, 3), f"end_{number}_s": round(end / fps, 3)}
    return float(missing.sum() / fps), detail


# What a network computes: LSE by two protocols, and identity (CSIM).

SIDE_PX = 112
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Left eye, right eye, nose, left and right mouth corner as seen by the observer; (x, y) px."""


def align_face(picture: Picture, points: NDArray[np.floating[Any]]) -> Picture:
    """BGR u8 [H, W, 3] -> the face as BGR u8 [112, 112, 3]; black where the picture ends."""
    return cv2.warpAffine(picture, fit_similarity(points, TEMPLATE), (SIDE_PX, SIDE_PX), flags=cv2.INTER_LINEAR)


def cosines(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Embeddings [n, d] each -> cosine of each pair [n], -1..1."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    return (one * other).sum(axis=1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))


CSIM_BATCH = 32


def _frame(pick: Callable[[SyncScore], float]) -> Callable[[Measurement], Outcome]:
    def compute(measurement: Measurement) -> Outcome:
        score = measurement.frame_sync
        fps = float(measurement.video.info.fps)
        return pick(score), {"windows": len(score.window_distances), "shifts": score.shifts, "fps": fps}

    return compute


def _face(pick: Callable[[SyncScore], float], best_only: bool = False) -> Callable[[Measurement], Outcome]:
    """Mean over the tracks; an offset is taken from the track that SyncNet is surest of."""

    def compute(measurement: Measurement) -> Outcome:
        scores = [score for _, score in measurement.face_sync]
        surest = max(scores, key=lambda score: score.confidence)
        value = pick(surest) if best_only else float(np.mean([pick(score) for score in scores]))
        detail = {f"track_{number}": pick(score) for number, score in enumerate(scores[:10], 1)}
        return value, detail | {"tracks": len(scores), "shifts": surest.shifts}

    return compute


def _csim(measurement: Measurement) -> Outcome:
    measurement.network("arcface")  # finding faces is expensive and useless without it, so fail first
    paired = measurement.paired_index
    marks, reference_marks = measurement.landmarks[: len(paired)], measurement.reference_landmarks
    both = np.flatnonzero(np.isfinite(marks[:, 0, 0]) & np.isfinite(reference_marks[:, 0, 0]))
    if len(both) == 0:
        seen = int(np.isfinite(marks[:, 0, 0]).sum())
        return f"no frame shows a face in both videos (the result has {seen} with one)"
    one = _embed_faces(measurement, measurement.video, both, marks[both])
    other = _embed_faces(measurement, measurement.reference_video, paired[both], reference_marks[both])
    scores = cosines(one, other)
    detail = {"frames": len(both), "lowest": float(scores.min()), "lowest_frame": int(both[scores.argmin()])}
    return float(scores.mean()), detail


def _embed_faces(
    measurement: Measurement, video: FrameSource, numbers: NDArray[np.int64], marks: NDArray[np.float32]
) -> NDArray[np.float32]:
    """ArcFace embeddings f32 [n, 512] of the aligned faces on these frames."""
    import torch

    network = measurement.network("arcface")
    found: list[NDArray[np.float32]] = []
    faces: list[Picture] = []
    frames = measurement.reporter.watch(video.frames_at(numbers.tolist()), len(numbers))
    for frame, points in zip(frames, marks, strict=True):
        faces.append(_aligned(frame, five_points(points), video.info.color))
        if len(faces) == CSIM_BATCH or len(faces) + sum(map(len, found)) == len(numbers):
            # Copied into NCHW order: the network takes views of its features, which channels-last input breaks.
            rgb = np.ascontiguousarray(np.stack(faces)[..., ::-1].transpose(0, 3, 1, 2))
            unit = (torch.from_numpy(rgb).to(network.device).float() - 127.5) / 127.5
            found.append(network(unit).cpu().numpy())
            faces = []
    return np.concatenate(found)


def _aligned(frame: Frame, points: NDArray[np.float64], color: ColorTags) -> NDArray[np.uint8]:
    """Only the part of the frame that the template covers is turned into BGR: the cost follows the face."""
    matrix = fit_similarity(points, TEMPLATE)
    corners = np.array([[0, 0], [SIDE_PX, 0], [0, SIDE_PX], [SIDE_PX, SIDE_PX]]) - matrix[:, 2]
    corners = corners @ np.linalg.inv(matrix[:, :2]).T
    height, width = frame.y.shape
    box = even_box((*(corners.min(axis=0) - 2), *(corners.max(axis=0) + 2)), width, height)
    return align_face(region_to_bgr(frame, box, color), points - box[:2])


_ROWS = (
    measured("mouth_target_correlation", lambda m: _correlation(_target_sync(m)), POINTS),
    measured("mouth_target_lag", lambda m: _lag(_target_sync(m)), POINTS),
    measured("mouth_speech_correlation", lambda m: _correlation(_speech_sync(m)), POINTS),
    measured("mouth_speech_lag", lambda m: _lag(_speech_sync(m)), POINTS),
    measured("viseme_agreement", _viseme_agreement, POINTS),
    measured("face_coverage", _face_coverage, POINTS),
    measured("av_duration_difference", _duration_difference),
    measured("ssim", _ssim, frozenset({"ssim"})),
    measured("psnr_outside_face", _psnr_outside, frozenset({"outside"})),
    measured("cpbd", _cpbd, frozenset({"points", "sharpness"})),
    measured("landmark_jitter", _jitter, POINTS),
    measured("faceless_s", _faceless, POINTS),
    measured("lse_d_frame", _frame(lambda score: score.distance)),
    measured("lse_c_frame", _frame(lambda score: score.confidence)),
    measured("lse_offset_frame", _frame(lambda score: float(score.offset_frames))),
    measured("lse_d_face", _face(lambda score: score.distance)),
    measured("lse_c_face", _face(lambda score: score.confidence)),
    measured("lse_offset_face", _face(lambda score: float(score.offset_frames), best_only=True)),
    measured("csim", _csim, POINTS | {REFERENCE_POINTS}),
)
METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ROWS})


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
