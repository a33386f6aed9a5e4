"""Everything that was measured about one clip, as data that can be stored: the numbers and the curves behind them; and
metrics of a set of clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.errors import InputError, MetricUnavailableError
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metrics import METRICS, POINTS, LineValue, MetricValue, measure_all
from retalking_core.media.planes import region_to_bgr
from retalking_core.types import FrameSource

Curve = list[float | None]
T = TypeVar("T")


@dataclass(frozen=True)
class SyncCurve:
    """SyncNet's mean distance at the shifts -s .. s. offset_frames: where the minimum lies, as the metric states it."""

    distances: Curve
    offset_frames: int


@dataclass(frozen=True)
class ClipCurves:
    """Per frame of the result, null where unknown; empty when the metric behind it was not asked for or not computable.

    mouth_opening: share of face size; mouth_target: what the engine aimed at, 0..1; speech_level: 0..1; ssim;
    window_distance: SyncNet's, of the window that begins at the frame. sync: curves over the shifts by protocol.
    """

    fps: float
    mouth_opening: Curve = field(default_factory=list)
    mouth_target: Curve = field(default_factory=list)
    speech_level: Curve = field(default_factory=list)
    ssim: Curve = field(default_factory=list)
    window_distance: Curve = field(default_factory=list)
    sync: dict[str, SyncCurve] = field(default_factory=dict)


@dataclass(frozen=True)
class ClipScores:
    """One clip. synthetic_weights: a network behind a number was never trained, so the number means nothing."""

    metrics: list[MetricValue]
    curves: ClipCurves
    synthetic_weights: bool = False

    def value(self, name: str) -> float | None:
        return next((metric.value for metric in self.metrics if metric.name == name), None)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> ClipScores:
        curves = dict(document["curves"])
        curves["sync"] = {name: SyncCurve(**curve) for name, curve in curves["sync"].items()}
        metrics = [
            MetricValue(**metric | {"lines": tuple(LineValue(**line) for line in metric.get("lines", ()))})
            for metric in document["metrics"]
        ]
        return cls(metrics, ClipCurves(**curves), document["synthetic_weights"])


def score(measurement: Measurement, names: Sequence[str]) -> ClipScores:
    """Measure, and keep the curves behind the numbers. Raises the media errors of a result that cannot be opened."""
    fps = float(measurement.video.info.fps)
    # The curve of the mouth is always drawn, unless several speak: looked for in the same pass.
    is_single = len(measurement.speakers) < 2
    metrics = measure_all(measurement, names, POINTS if is_single else frozenset())
    asked = set(names)
    sync = _sync_curves(measurement, asked)
    curves = ClipCurves(
        fps=fps,
        mouth_opening=(_known(lambda: as_curve(measurement.mouth_opening)) or []) if is_single else [],
        speech_level=(_known(lambda: as_curve(measurement.speech_level)) or []) if is_single else [],
        ssim=(_known(lambda: as_curve(measurement.ssim_per_frame)) or []) if "ssim" in asked else [],
        window_distance=_known(lambda: as_curve(measurement.frame_sync.window_distances)) or []
        if "frame" in sync
        else [],
        sync=sync,
    )
    synthetic = measurement.models is not None and measurement.models.synthetic
    return ClipScores(metrics, curves, synthetic)


def measured_curves(measurement: Measurement) -> ClipCurves:
    """The curves that some metric has needed already: nothing is measured for them."""
    known = measurement.known
    sync = _sync_curves(measurement, {f"lse_{name}" for name in ("frame", "face") if f"{name}_sync" in known})
    return ClipCurves(
        fps=float(measurement.video.info.fps),
        mouth_opening=as_curve(measurement.mouth_opening) if "landmarks" in known else [],
        mouth_target=as_curve(measurement.mouth_target) if measurement.mouth_target is not None else [],
        speech_level=as_curve(measurement.speech_level) if "speech_level" in known else [],
        ssim=as_curve(measurement.ssim_per_frame) if "ssim_per_frame" in known else [],
        window_distance=as_curve(measurement.frame_sync.window_distances) if "frame" in sync else [],
        sync=sync,
    )


def as_curve(values: NDArray[np.floating[Any]]) -> Curve:
    """Rounded to what a chart can show; NaN becomes null."""
    return [None if not np.isfinite(value) else round(float(value), 5) for value in values]


def means(clips: Sequence[ClipScores]) -> dict[str, tuple[float, int] | None]:
    """Plain mean of each metric over the clips that have it, and how many those are."""
    found = {name: [value for clip in clips if (value := clip.value(name)) is not None] for name in METRICS}
    return {name: (float(np.mean(values)), len(values)) if values else None for name, values in found.items()}


def _sync_curves(measurement: Measurement, asked: set[str]) -> dict[str, SyncCurve]:
    """Of the protocols that were asked for; of several face tracks the longest."""
    readers = {"frame": lambda: measurement.frame_sync, "face": lambda: measurement.face_sync[0][1]}
    wanted = [name for name in readers if any(metric.startswith("lse_") and metric.endswith(name) for metric in asked)]
    found = {name: _known(readers[name]) for name in wanted}
    return {
        name: SyncCurve(as_curve(score.curve), score.offset_frames)
        for name, score in found.items()
        if score is not None
    }


def _known(measure: Callable[[], T]) -> T | None:
    """None where the metric beside it has already said why there is no number."""
    try:
        return measure()
    except (InputError, MetricUnavailableError):
        return None


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
    return max(0.0, float(shift @ shift + (first**2).sum() + (second**2).sum() - 2 * cross))


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
    """FID (Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", NeurIPS
    2017) between the frames of all results and the frames they were made from, over all frames of all clips. Fewer than
    2048 frames give a number that only compares with itself; `enough` says so."""
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
