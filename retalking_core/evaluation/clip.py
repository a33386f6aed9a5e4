"""The clip under evaluation: the rendered file, what it was made from, and how its frames pair with the reference's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retalking_core.errors import MetricUnavailableError
from retalking_core.evaluation.models import EvaluationModels
from retalking_core.media.limits import DEFAULT_LIMITS, MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.sources import PrefetchingFrameSource
from retalking_core.progress import ProgressHook, ProgressReporter, ignore_progress
from retalking_core.types import FrameSource, RenderReport, Waveform


@dataclass(frozen=True)
class EvaluatedClip:
    """One finished render under evaluation. Its files are opened when they are first needed, and then kept.

    speech: what the lips follow, or the file that it is in. reference: the video that the result was made from.
    source_index: i64 [M], the reference frame that each result frame was made from; None: the one of the same number.
    progress: called while the evaluation runs; an exception that it raises ends the evaluation. has_badge:
    `output.badge` was requested, so the badge is no error of the picture.
    """

    result: Path
    speech: Path | Waveform
    report: RenderReport | None = None
    limits: MediaLimits = DEFAULT_LIMITS
    reference: Path | None = None
    source_index: NDArray[np.int64] | None = None
    models: EvaluationModels | None = None
    progress: ProgressHook = ignore_progress
    has_badge: bool = False

    @cached_property
    def reporter(self) -> ProgressReporter:
        return ProgressReporter(self.progress)

    @cached_property
    def video(self) -> FrameSource:
        return open_video(self.result, self.limits)

    @cached_property
    def reference_video(self) -> FrameSource:
        """The frames that the render holds, where it does and they are the reference's."""
        held = None if self.report is None else self.report.held
        if held is not None and held.path == self.reference_file:
            return held.source
        return PrefetchingFrameSource(open_video(self.reference_file, self.limits))

    @property
    def reference_file(self) -> Path:
        if self.reference is None:
            raise MetricUnavailableError("no reference video was given")
        return self.reference

    @cached_property
    def paired_index(self) -> NDArray[np.int64]:
        """The reference frame of each result frame that has one, i64 [n], n <= M."""
        frames, sources = self.video.info.frame_count, self.reference_video.info.frame_count
        wanted = np.arange(frames) if self.source_index is None else self.source_index[:frames]
        return wanted[wanted < sources] if self.source_index is None else np.minimum(wanted, sources - 1)
