"""What several metrics look at, measured once: the face on every frame, per-frame scores, SyncNet's distances."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retalking_core.audio.mel import FRAMES_PER_S, mel_spectrogram
from retalking_core.audio.waveform import load_waveform
from retalking_core.evaluation.bgr_frames import read_bgr
from retalking_core.evaluation.face_points import find_points
from retalking_core.evaluation.ssim import similarity, toolkit_gray
from retalking_core.faces.landmarks import inner_gap
from retalking_core.media.limits import DEFAULT_LIMITS, MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.types import FrameSource, RenderReport

if TYPE_CHECKING:  # torch is imported only when a network is asked for
    from retalking_core.evaluation.face_tracks import SceneTrack
    from retalking_core.evaluation.models import EvaluationModels
    from retalking_core.evaluation.sync_score import SyncScore
    from retalking_core.networks.inference import InferenceNetwork


class UnmeasurableError(Exception):
    """A number that can not be had for this render; `reason` is the sentence for the caller."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Measurement:
    """One finished render under evaluation. Everything below is measured when first asked for, and then kept.

    reference: the video that the result was made from. source_index: i64 [M], the reference frame that each result
    frame was made from; None: the one of the same number.
    """

    result: Path
    speech: Path
    report: RenderReport | None = None
    limits: MediaLimits = DEFAULT_LIMITS
    reference: Path | None = None
    source_index: NDArray[np.int64] | None = None
    models: EvaluationModels | None = None

    @cached_property
    def video(self) -> FrameSource:
        return open_video(self.result, self.limits)

    @cached_property
    def reference_video(self) -> FrameSource:
        return open_video(self.reference_file, self.limits)

    @property
    def reference_file(self) -> Path:
        if self.reference is None:
            raise UnmeasurableError("no reference video was given")
        return self.reference

    @cached_property
    def paired_index(self) -> NDArray[np.int64]:
        """The reference frame of each result frame that has one, i64 [n], n <= M."""
        frames, sources = self.video.info.frame_count, self.reference_video.info.frame_count
        wanted = np.arange(frames) if self.source_index is None else self.source_index[:frames]
        return wanted[wanted < sources] if self.source_index is None else np.minimum(wanted, sources - 1)

    @cached_property
    def landmarks(self) -> NDArray[np.float32]:
        """68 points on every frame of the result, f32 [M, 68, 2] px, NaN where dlib sees no face.

        Fitted anew on each frame and not smoothed, so that it shares nothing with the engine's own track but the
        landmark model.
        """
        return find_points(self.video.frames())

    @cached_property
    def reference_landmarks(self) -> NDArray[np.float32]:
        """The same for the paired frames of the reference, f32 [n, 68, 2]."""
        chosen, back = np.unique(self.paired_index, return_inverse=True)
        return find_points(self.reference_video.frames_at(chosen.tolist()))[back]

    @cached_property
    def mouth_opening(self) -> NDArray[np.float32]:
        """Inner-lip gap over face size on every frame, f32 [M], NaN where dlib sees no face."""
        return inner_gap(self.landmarks)

    @cached_property
    def ssim_per_frame(self) -> NDArray[np.float64]:
        """The toolkit's SSIM of frame k of the result against frame k of the reference, f64 [min of both counts]."""
        pairs = zip(read_bgr(self.result, self.limits), read_bgr(self.reference_file, self.limits), strict=False)
        return np.array([similarity(toolkit_gray(one), toolkit_gray(other)) for one, other in pairs])

    @cached_property
    def frame_sync(self) -> SyncScore:
        """SyncNet by the whole-frame protocol."""
        network = self.network("syncnet")
        from retalking_core.evaluation.sync_protocols import frame_score

        return frame_score(self.result, self.video.info, network, self.limits)

    @cached_property
    def face_sync(self) -> list[tuple[SceneTrack, SyncScore]]:
        """SyncNet by the face-track protocol, longest track first."""
        network, detector = self.network("syncnet"), self.network("s3fd")
        from retalking_core.evaluation.sync_protocols import face_scores

        return face_scores(self.result, self.video.info, network, detector, self.limits)

    def network(self, name: str) -> InferenceNetwork:
        """Raises UnmeasurableError when its checkpoint is not to be had."""
        if self.models is None:
            raise UnmeasurableError("needs checkpoints, and no folder of weights was given")
        return self.models.get(name)

    @cached_property
    def speech_level(self) -> NDArray[np.float32]:
        """Loudness of the speech on every frame of the result, f32 [M], 0 (40 dB below the loudest) .. 1; plain band
        energy, without the engine's ideas about vowels and lips."""
        mel_db = (mel_spectrogram(load_waveform(self.speech, self.limits)) + 4) * 12.5 - 100
        level_db = 10 * np.log10((10 ** (mel_db[:70] / 10)).mean(axis=0))
        level = np.clip(1 + (level_db - np.percentile(level_db, 98)) / 40, 0, 1)
        info = self.video.info
        times_s = (np.arange(info.frame_count)[:, None] + np.linspace(0, 1, 5)) / float(info.fps)
        return np.interp(times_s * FRAMES_PER_S, np.arange(len(level)), level, right=0).mean(axis=1).astype(np.float32)
