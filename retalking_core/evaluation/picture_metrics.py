"""Rows of the table that look at the pictures and need no checkpoint: similarity, sharpness, steadiness, presence."""

from __future__ import annotations

import numpy as np

from retalking_core.evaluation.frame_pass import spread
from retalking_core.evaluation.image_quality import BLOCK_PX
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metric import POINTS, Outcome, measured
from retalking_core.faces.landmarks import MOUTH, RIGID, face_scale

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


PICTURE_METRICS = (
    measured("ssim", _ssim, frozenset({"ssim"})),
    measured("psnr_outside_face", _psnr_outside, frozenset({"outside"})),
    measured("cpbd", _cpbd, frozenset({"points", "sharpness"})),
    measured("landmark_jitter", _jitter, POINTS),
    measured("faceless_s", _faceless, POINTS),
)
