"""The table of metrics and one call that computes any of them. What can not be computed is None with a reason, never
0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from retalking_core.errors import InputError
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.mouth_sync import MouthSync, measure_sync
from retalking_core.media.limits import DEFAULT_LIMITS, MediaLimits
from retalking_core.media.probe import probe_audio
from retalking_core.types import RenderReport

Better = Literal["higher", "lower", "neutral"]


@dataclass(frozen=True)
class MetricValue:
    """One number about a render. value None: not computable, `reason` says why. detail: what stands behind it."""

    name: str
    value: float | None
    reason: str | None
    unit: str
    better: Better
    detail: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """An entry of the table. range: lowest and highest possible value, None without a bound. source: where it is
    defined.

    checkpoint: name of the weight file that it needs, or None. compute: the value with its details, or the reason.
    """

    name: str
    description: str
    unit: str
    better: Better
    range: tuple[float | None, float | None]
    source: str
    checkpoint: str | None
    compute: Callable[[Measurement], tuple[float, dict[str, float]] | str]


def evaluate(
    result: Path,
    speech: Path,
    report: RenderReport | None,
    metrics: Sequence[str],
    limits: MediaLimits = DEFAULT_LIMITS,
) -> list[MetricValue]:
    """Measure a finished file, in the order asked. Raises: KeyError for a metric that is not in `METRICS`."""
    chosen = [METRICS[name] for name in metrics]
    measurement = Measurement(result, speech, report, limits)
    return [_measure(metric, measurement) for metric in chosen]


def _measure(metric: Metric, measurement: Measurement) -> MetricValue:
    try:
        outcome = metric.compute(measurement)
    except InputError as error:
        outcome = error.message
    if isinstance(outcome, str):
        return MetricValue(metric.name, None, outcome, metric.unit, metric.better)
    value, detail = outcome
    return MetricValue(metric.name, value, None, metric.unit, metric.better, detail)


def _target_sync(measurement: Measurement) -> MouthSync | str:
    if measurement.report is None or measurement.report.mouth_target is None:
        return "the engine states no mouth target"
    return measure_sync(measurement.mouth_opening, measurement.report.mouth_target)


def _speech_sync(measurement: Measurement) -> MouthSync | str:
    return measure_sync(measurement.mouth_opening, measurement.speech_level)


def _correlation(sync: MouthSync | str) -> tuple[float, dict[str, float]] | str:
    if isinstance(sync, str):
        return sync
    detail = {"lag_frames": sync.lag_frames, "unshifted": sync.correlation_unshifted, "frames": sync.frames}
    return sync.correlation, detail


def _lag(sync: MouthSync | str) -> tuple[float, dict[str, float]] | str:
    return sync if isinstance(sync, str) else (float(sync.lag_frames), {"correlation": sync.correlation})


def _face_coverage(measurement: Measurement) -> tuple[float, dict[str, float]]:
    seen = np.isfinite(measurement.mouth_opening)
    return float(seen.mean()), {"frames": len(seen), "frames_with_face": int(seen.sum())}


def _duration_difference(measurement: Measurement) -> tuple[float, dict[str, float]]:
    video = measurement.video.info
    audio_s = probe_audio(measurement.result, measurement.limits).duration_s
    difference = (video.duration_s - audio_s) * float(video.fps)
    return abs(difference), {"video_s": video.duration_s, "audio_s": audio_s}


_MOUTH = "inner-lip gap over face size, dlib 68 points on every frame of the result; Pearson r, lags -10..10"
_ENTRIES = (
    Metric(
        "mouth_target_correlation",
        "How well the mouth on the file follows the opening that the engine aimed at (best lag).",
        "r",
        "higher",
        (-1.0, 1.0),
        _MOUTH,
        None,
        lambda m: _correlation(_target_sync(m)),
    ),
    Metric(
        "mouth_target_lag",
        "Frames by which the mouth comes after the engine's target (negative: before).",
        "frames",
        "neutral",
        (-10.0, 10.0),
        _MOUTH,
        None,
        lambda m: _lag(_target_sync(m)),
    ),
    Metric(
        "mouth_speech_correlation",
        "How well the mouth on the file follows the loudness of the speech (best lag).",
        "r",
        "higher",
        (-1.0, 1.0),
        _MOUTH,
        None,
        lambda m: _correlation(_speech_sync(m)),
    ),
    Metric(
        "mouth_speech_lag",
        "Frames by which the mouth comes after the speech (negative: before).",
        "frames",
        "neutral",
        (-10.0, 10.0),
        _MOUTH,
        None,
        lambda m: _lag(_speech_sync(m)),
    ),
    Metric(
        "face_coverage",
        "Share of the result's frames on which dlib sees a face.",
        "share",
        "higher",
        (0.0, 1.0),
        "dlib HOG detector and 68-point predictor",
        None,
        _face_coverage,
    ),
    Metric(
        "av_duration_difference",
        "Difference between picture and sound length of the file.",
        "frames",
        "lower",
        (0.0, None),
        "stream durations",
        None,
        _duration_difference,
    ),
)
METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ENTRIES})
