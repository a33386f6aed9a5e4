"""Metrics that a network computes: LSE by two protocols, and identity (CSIM). Each names its checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.evaluation.frame_pass import REFERENCE_POINTS
from retalking_core.evaluation.frames import Picture
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metric import POINTS, Outcome, measured
from retalking_core.evaluation.sync import SyncScore
from retalking_core.faces.landmarks import fit_similarity, five_points
from retalking_core.media.color import even_box, region_to_bgr
from retalking_core.types import ColorTags, Frame, FrameSource

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


NEURAL_METRICS = (
    measured("lse_d_frame", _frame(lambda score: score.distance)),
    measured("lse_c_frame", _frame(lambda score: score.confidence)),
    measured("lse_offset_frame", _frame(lambda score: float(score.offset_frames))),
    measured("lse_d_face", _face(lambda score: score.distance)),
    measured("lse_c_face", _face(lambda score: score.confidence)),
    measured("lse_offset_face", _face(lambda score: float(score.offset_frames), best_only=True)),
    measured("csim", _csim, POINTS | {REFERENCE_POINTS}),
)
