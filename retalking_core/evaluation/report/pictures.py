"""Images and videos of the report: the best and worst moments of a clip, and small copies for the browser."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.errors import InputError, MetricUnavailableError
from retalking_core.evaluation.clip_scores import ClipCurves, Curve
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.observers import face_box
from retalking_core.media.color import even_box, region_to_bgr
from retalking_core.media.speech import Speech, read_speech, silent_speech
from retalking_core.media.writer import ResultWriter
from retalking_core.options import OutputOptions
from retalking_core.types import FrameSource, Timeline

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
    except (InputError, MetricUnavailableError):
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
        picture = region_to_bgr(frame, even_box(box, width, height), source.info.color)
        pictures.append(cv2.resize(picture, (HEIGHT_PX, HEIGHT_PX), interpolation=cv2.INTER_AREA))
    return pictures


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


# Enough to see lips; about 150 kB for five seconds.
PLAYER = OutputOptions(crf=26, max_height=420)


def write_players(measurement: Measurement, folder: Path) -> list[Path]:
    """The result, and the reference brought onto the result's own timeline, both with the result's speech.

    Returns the files written: result.mp4, and reference.mp4 where a reference can be opened. Raises media errors of the
    result.
    """
    video = measurement.video
    folder.mkdir(parents=True, exist_ok=True)
    frames = np.arange(video.info.frame_count)
    with _speech(measurement) as speech:
        written = [_write(video, frames, video.info.fps, speech, folder / "result.mp4")]
        if measurement.reference is not None:
            with suppress(InputError):
                reference, paired = measurement.reference_video, measurement.paired_index
                written.append(_write(reference, paired, video.info.fps, speech, folder / "reference.mp4"))
    return written


def _write(source: FrameSource, numbers: NDArray[np.int64], fps: Fraction, speech: Speech, path: Path) -> Path:
    timeline = Timeline(numbers, fps, float(len(numbers) / fps))
    with ResultWriter(path, source.info, timeline, speech, PLAYER, {}) as writer:
        for frame in source.frames_at(numbers.tolist()):
            writer.write(frame)
    return path


def _speech(measurement: Measurement) -> Speech:
    """The result's own sound; silence for a result without any."""
    try:
        return read_speech(measurement.result, measurement.limits)
    except InputError:
        return silent_speech(measurement.video.info.duration_s)
