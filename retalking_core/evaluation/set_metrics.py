"""Numbers that only a set of clips has: FID between the frames of all results and the frames they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.evaluation.frechet import ENOUGH_SAMPLES, frechet_distance
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metric import MetricValue
from retalking_core.media.color import region_to_bgr
from retalking_core.types import FrameSource

FID_CHECKPOINT = "inception"
BATCH = 32
Features = NDArray[np.float32]


@dataclass(frozen=True)
class ClipFeatures:
    """Inception features of the whole frames of one clip: result and paired reference, f32 [n, 2048] each."""

    result: Features
    reference: Features

    def write(self, path: Path) -> None:
        partial = path.with_name(f".{path.name}.part.npz")
        np.savez(partial, result=self.result, reference=self.reference)
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> ClipFeatures:
        """Raises OSError, ValueError or KeyError for a file that is not whole."""
        with np.load(path) as stored:
            return cls(stored["result"], stored["reference"])


def clip_features(measurement: Measurement) -> ClipFeatures:
    """Raises UnmeasurableError without the checkpoint, and media errors."""
    paired = measurement.paired_index
    frames = np.arange(len(paired))
    return ClipFeatures(
        _features(measurement, measurement.video, frames), _features(measurement, measurement.reference_video, paired)
    )


def fid(clips: Sequence[ClipFeatures]) -> MetricValue:
    """Over all frames of all clips. Fewer than 2048 frames give a number that only compares with itself; `enough` says
    so."""
    result = np.concatenate([clip.result for clip in clips])
    reference = np.concatenate([clip.reference for clip in clips])
    if min(len(result), len(reference)) < 2:
        return no_fid("needs at least two frames")
    detail = {"frames": len(result), "enough": float(len(result) >= ENOUGH_SAMPLES)}
    return MetricValue("fid", frechet_distance(result, reference), None, "", "lower", detail)


def no_fid(reason: str) -> MetricValue:
    return MetricValue("fid", None, reason, "", "lower")


def _features(measurement: Measurement, source: FrameSource, numbers: NDArray[np.int64]) -> Features:
    import torch

    network = measurement.network(FID_CHECKPOINT)
    found, pictures = [], []
    whole = (0, 0, source.info.width, source.info.height)
    for count, frame in enumerate(source.frames_at(numbers.tolist()), 1):
        pictures.append(cv2.cvtColor(region_to_bgr(frame, whole, source.info.colour), cv2.COLOR_BGR2RGB))
        if len(pictures) == BATCH or count == len(numbers):
            stacked = np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))
            found.append(network(torch.from_numpy(stacked).to(network.device).float() / 255).cpu().numpy())
            pictures = []
    return np.concatenate(found) if found else np.zeros((0, 2048), np.float32)
