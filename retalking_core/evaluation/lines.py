"""Metrics of each line of a result: of its face, on its frames, against its speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metric import MetricValue
from retalking_core.evaluation.metrics import measure_all
from retalking_core.lines import Line
from retalking_core.media.limits import DEFAULT_LIMITS, MediaLimits
from retalking_core.progress import ProgressHook, ignore_progress
from retalking_core.types import LineReport

LINE_METRICS = (
    "mouth_target_correlation",
    "mouth_target_lag",
    "mouth_speech_correlation",
    "mouth_speech_lag",
    "viseme_agreement",
    "face_coverage",
    "landmark_jitter",
)
"""Those about a face and a speech, which need no checkpoint."""


@dataclass(frozen=True)
class LineScores:
    """number: of the line in the caller's list, from 0. start_s, end_s: on the clock of the result."""

    number: int
    start_s: float
    end_s: float
    metrics: list[MetricValue]

    def value(self, name: str) -> float | None:
        return next((metric.value for metric in self.metrics if metric.name == name), None)


def measure_lines(
    result: Path,
    lines: Sequence[Line],
    reports: Sequence[LineReport],
    limits: MediaLimits = DEFAULT_LIMITS,
    progress: ProgressHook = ignore_progress,
    metrics: Sequence[str] = LINE_METRICS,
) -> list[LineScores]:
    """In the order of `lines`. reports: what the engine stated about the same lines, which names the face of each.

    Raises the media errors of a result that cannot be opened, and ValueError for reports of other lines.
    """
    scores = []
    for line, report in zip(lines, reports, strict=True):
        if (line.number, len(line.frames)) != (report.number, len(report.face_boxes)):
            raise ValueError(f"line {line.number} and the report of line {report.number} do not belong together")
        measurement = Measurement(
            result,
            line.speech,
            limits=limits,
            progress=progress,
            stored_mouth_target=report.mouth_target,
            face_boxes=report.face_boxes,
            frames=line.frames,
        )
        scores.append(LineScores(line.number, line.start_s, line.end_s, measure_all(measurement, metrics)))
    return scores
