"""Metrics of a set of clips: FID between the frames of all results and the frames they were made from.

Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", NeurIPS 2017."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metrics import MetricValue
from retalking_core.media.planes import region_to_bgr
from retalking_core.types import FrameSource

# 2048 features need as many samples for a covariance that has an inverse.
ENOUGH_SAMPLES = 2048


def frechet_distance(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> float:
    """Features [n, d] and [m, d], at least two of each -> squared distance of the two Gaussians, >= 0.

    With S1 = A'A and S2 = B'B, tr sqrt(S1 S2) is the sum of the singular values of A B': real and not negative, so that
    no complex square root of a singular product appears and nothing has to be dropped. For few samples that matrix is
    small: 100 frames take milliseconds where the square root of a 2048 x 2048 product takes 20 s.
    """
    if min(len(one), len(other)) < 2:
        raise ValueError("a covariance needs at least two samples")
    shift = one.astype(np.float64).mean(axis=0) - other.astype(np.float64).mean(axis=0)
    first, second = _factor(one), _factor(other)
    cross = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    return float(max(0.0, shift @ shift + (first**2).sum() + (second**2).sum() - 2 * cross))


def _factor(features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """A with A'A the unbiased covariance, of no more rows than columns."""
    centered = features.astype(np.float64)
    centered = (centered - centered.mean(axis=0)) / np.sqrt(len(features) - 1)
    if len(centered) <= centered.shape[1]:
        return centered
    return np.asarray(np.linalg.qr(centered, mode="r"))


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
    """Raises MetricUnavailableError without the checkpoint, and media errors."""
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
        pictures.append(cv2.cvtColor(region_to_bgr(frame, whole, source.info.color), cv2.COLOR_BGR2RGB))
        if len(pictures) == BATCH or count == len(numbers):
            stacked = np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))
            found.append(network(torch.from_numpy(stacked).to(network.device).float() / 255).cpu().numpy())
            pictures = []
    return np.concatenate(found) if found else np.zeros((0, 2048), np.float32)
