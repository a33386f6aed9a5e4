"""The clip under evaluation, how its frames pair with the reference's, and the networks that measure it.

torch is imported with the first network: most metrics run without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retalking_core.errors import MetricUnavailableError
from retalking_core.lines import Line, Speaker, lines_of
from retalking_core.media.limits import DEFAULT_LIMITS, MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.sources import ExcerptFrameSource, PrefetchingFrameSource
from retalking_core.media.tap import ResultTap
from retalking_core.progress import ProgressHook, ProgressReporter, ignore_progress
from retalking_core.types import FrameSource, LineReport, RenderReport, Waveform


@dataclass(frozen=True)
class EvaluatedClip:
    """One finished render under evaluation. Its files are opened when they are first needed, and then kept.

    speech: what the lips follow, or the file that it is in. reference: the video that the result was made from.
    source_index: i64 [M], the reference frame that each result frame was made from; None: the one of the same number.
    progress: called while the evaluation runs; an exception that it raises ends the evaluation. has_badge:
    `output.badge` was requested, so the badge is no error of the picture. stored_mouth_target: f32 [M], the report's
    `mouth_target` where an earlier process rendered and kept no report. face_boxes: f32 [M, 4] px of the face to
    measure, NaN where it is unknown; None: the one that the report names, else the largest. tap: the result while it is
    being written; None: it is complete. frames: only these of the result are looked at; None: all. Everything else that
    goes by frames begins with the first of them. opened: the frames of the whole result, where they are open already.
    speakers: who speaks, where the caller listed lines; empty: one speech for one face. stored_lines: the report's
    `lines` where an earlier process rendered and kept no report.
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
    stored_mouth_target: NDArray[np.float32] | None = None
    face_boxes: NDArray[np.float32] | None = None
    tap: ResultTap | None = None
    frames: range | None = None
    opened: FrameSource | None = None
    speakers: tuple[Speaker, ...] = ()
    stored_lines: tuple[LineReport, ...] = ()

    @property
    def rendered_face(self) -> NDArray[np.float32] | None:
        """Where the face is that all metrics are about, f32 [M, 4] px of the result; None: the largest."""
        if self.face_boxes is not None or self.report is None:
            return self.face_boxes
        return self.report.face_boxes

    @cached_property
    def reporter(self) -> ProgressReporter:
        return ProgressReporter(self.progress)

    @property
    def mouth_target(self) -> NDArray[np.float32] | None:
        """What the engine aimed at, see `RenderReport`; None if it stated nothing."""
        return self.stored_mouth_target if self.report is None else self.report.mouth_target

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """What is spoken, as the caller listed it."""
        return lines_of(self.speakers)

    @property
    def line_reports(self) -> tuple[LineReport, ...]:
        """What the engine stated about each of `lines`. Raises MetricUnavailableError where it stated nothing."""
        reports = self.stored_lines if self.report is None else self.report.lines
        stated = [(report.number, report.first_frame, len(report.face_boxes)) for report in reports]
        if stated != [(line.number, line.frames.start, len(line.frames)) for line in self.lines]:
            raise MetricUnavailableError("the engine does not state where the faces of the segments are")
        return reports

    @cached_property
    def video(self) -> FrameSource:
        if self.tap is not None:
            return self.tap
        video = self.opened or open_video(self.result, self.limits)
        return video if self.frames is None else ExcerptFrameSource(video, self.frames)

    @cached_property
    def reference_video(self) -> FrameSource:
        """The frames that the render holds, where it does and they are the reference's."""
        render = self.report or self.tap
        held = None if render is None else render.held
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


if TYPE_CHECKING:
    from retalking_core.networks.inference import InferenceNetwork
    from retalking_core.weights.store import NetworkStore


class EvaluationModels:
    """SyncNet, S3FD, ArcFace and Inception, each read from `folder` when it is first asked for, and then kept.

    device: as torch names it; None: the first CUDA device if there is one, else the CPU.
    """

    def __init__(self, folder: Path, device: str | None = None) -> None:
        self.folder, self.device = folder, device

    def has(self, name: str) -> bool:
        """Whether the checkpoint lies in the folder; it is not read."""
        from retalking_core.weights.table import WEIGHT_FILES

        entry = WEIGHT_FILES[name]
        return any((self.folder / file).is_file() for file in entry.names)

    def get(self, name: str) -> InferenceNetwork:
        """Raises MetricUnavailableError, naming the file and what to do."""
        from retalking_core.weights.table import WEIGHT_FILES

        file = WEIGHT_FILES[name].file
        if not self.has(name):
            raise MetricUnavailableError(f"needs the checkpoint {file}: `retalking weights fetch` gets it")
        try:
            from retalking_core.errors import WeightsError

            return self._store.get(name)
        except ImportError as error:
            raise MetricUnavailableError(
                f"needs torch ({error.name} is missing): pip install 'retalking[gpu]'"
            ) from error
        except WeightsError as error:
            raise MetricUnavailableError(f"{error.message}; `retalking weights fetch` gets {file} anew") from error

    @property
    def synthetic(self) -> bool:
        """Whether a network was loaded whose weights were generated, so that its scores mean nothing."""
        return "_store" in vars(self) and self._store.synthetic

    @cached_property
    def _store(self) -> NetworkStore:
        import torch

        from retalking_core.weights.store import NetworkStore

        return NetworkStore(self.folder, self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
