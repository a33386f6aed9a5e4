"""The frames to look at first: the best and the worst moments of a clip, input beside result."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.errors import InputError
from retalking_core.evaluation.clip_scores import ClipCurves, Curve
from retalking_core.evaluation.measurement import Measurement, UnmeasurableError
from retalking_core.evaluation.outside import face_box
from retalking_core.media.color import even_box, region_to_bgr
from retalking_core.types import FrameSource

EACH_END, APART_FRAMES, HEIGHT_PX, MARGIN = 4, 5, 150, 0.35


@dataclass(frozen=True)
class Moment:
    """jpeg: the face in the result, to the right of the same place in the reference where there is one."""

    frame: int
    time_s: float
    score: float
    jpeg: bytes


@dataclass(frozen=True)
class Strip:
    """Moments in order of time. score_name: what they were chosen by."""

    score_name: str
    best: list[Moment]
    worst: list[Moment]


def make_strips(measurement: Measurement, curves: ClipCurves) -> list[Strip]:
    """One strip for SSIM and one for SyncNet's distances, as far as there are such curves."""
    strips = []
    for name, curve, sign in (("SSIM", curves.ssim, 1), ("SyncNet distance", curves.window_distance, -1)):
        if len(curve) < 2 * EACH_END:
            continue
        best, worst = _extremes(curve, sign), _extremes(curve, -sign)
        pictures = _pictures(measurement, sorted({*best, *worst}))
        ends = (
            [Moment(k, k / curves.fps, curve[k], pictures[k]) for k in sorted(chosen) if k in pictures]
            for chosen in (best, worst)
        )
        strips.append(Strip(name, *ends))
    return strips


def _extremes(curve: Curve, sign: int) -> list[int]:
    """Frames with the largest sign * value, none within five frames of another."""
    chosen: list[int] = []
    for number in sorted((k for k, value in enumerate(curve) if value is not None), key=lambda k: -sign * curve[k]):
        if all(abs(number - other) >= APART_FRAMES for other in chosen):
            chosen.append(number)
        if len(chosen) == EACH_END:
            break
    return chosen


def _pictures(measurement: Measurement, numbers: list[int]) -> dict[int, bytes]:
    marks = measurement.landmarks
    numbers = [number for number in numbers if number < len(marks)]
    pictures = _cut(measurement.video, numbers, marks[numbers])
    try:
        paired = measurement.paired_index
        known = [number for number in numbers if number < len(paired)]
        beside = _cut(measurement.reference_video, paired[known].tolist(), marks[known])
    except (InputError, UnmeasurableError):
        known, beside = [], []
    left = dict(zip(known, beside, strict=True))
    return {
        number: _jpeg(cv2.hconcat([left[number], picture]) if number in left else picture)
        for number, picture in zip(numbers, pictures, strict=True)
    }


def _cut(source: FrameSource, numbers: list[int], marks: NDArray[np.float32]) -> list[NDArray[np.uint8]]:
    """BGR pictures, 150 px high and as wide: the face grown by a third, or the whole frame where none is seen."""
    pictures = []
    for frame, points in zip(source.frames_at(numbers), marks, strict=True):
        height, width = frame.y.shape
        box = (0, 0, width, height)
        if np.isfinite(points).all():
            box = face_box(points, width, height, MARGIN)
        if box[2] - box[0] < 2 or box[3] - box[1] < 2:
            box = (0, 0, width, height)
        picture = region_to_bgr(frame, even_box(box, width, height), source.info.colour)
        pictures.append(cv2.resize(picture, (HEIGHT_PX, HEIGHT_PX), interpolation=cv2.INTER_AREA))
    return pictures


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
