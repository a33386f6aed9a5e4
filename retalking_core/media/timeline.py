"""Which source picture each output picture shows, when video and speech differ in length, rate or regularity."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from retalking_core.options import LengthMode
from retalking_core.types import Timeline, VideoInfo

# Below this rate no lip movement can be shown (a syllable takes about 200 ms): slide shows and one-picture videos come
# out at the rate of a still picture.
_LOWEST_RATE = 10
_STILL_RATE = Fraction(25)
# Two source pictures count as equally near within this; the earlier is taken. Keeps an exact doubling of the rate
# (25 -> 50) regular in spite of floating-point noise. A microsecond is far below any frame step.
_TIE_S = 1e-6


def plan_timeline(
    info: VideoInfo, speech_s: float, length_mode: LengthMode, output_fps: float | None = None
) -> Timeline:
    """Plan the output pictures at a constant rate (the source's own average unless `output_fps` is given;
    25 for a source of fewer than ten pictures a second, whose lips could not move).

    The number of pictures M is the one whose duration M / fps is nearest the wanted length (at least one), so that the
    result is never shorter than it by more than half a picture. Every output picture takes the source picture nearest
    in time; of two equally near ones the earlier.

    bounce: as long as the speech; the video runs forward, then backward, and so on, no turning picture shown twice.
    loop: as long as the speech; the video starts over from its first picture. Both cut a longer video.
    cut_off: as long as the shorter of both. silence: as long as the longer; speech then silence, or the last picture
    holds while the speech goes on. remap: as long as the speech; the video is stretched or compressed in time to fit.
    """
    if not (math.isfinite(speech_s) and speech_s > 0):
        raise ValueError(f"speech_s must be positive, not {speech_s}")
    fps = result_rate(info, output_fps)
    wanted_s = {
        "cut_off": min(speech_s, info.duration_s),
        "silence": max(speech_s, info.duration_s),
    }.get(length_mode, speech_s)
    count = max(1, math.floor(wanted_s * fps + Fraction(1, 2)))
    output_s = np.arange(count, dtype=np.float64) * float(1 / fps)
    source_s = _source_times(output_s, info, length_mode, float(count / fps))
    return Timeline(source_index=nearest_in_time(info.frame_times_s, source_s), fps=fps)


def result_rate(info: VideoInfo, output_fps: float | None = None) -> Fraction:
    """Frames per second of the result, see `plan_timeline`."""
    if output_fps is not None:
        return exact_rate(output_fps)
    return info.fps if info.fps >= _LOWEST_RATE else _STILL_RATE


def exact_rate(fps: float) -> Fraction:
    """The rate as a fraction; the NTSC family (23.976, 29.97, 59.94, ...) becomes n * 1000 / 1001 exactly."""
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be positive, not {fps}")
    ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
    if ntsc > 0 and abs(float(ntsc) - fps) < 1e-3 and abs(fps - round(fps)) > 1e-6:
        return ntsc
    return Fraction(fps).limit_denominator(10_000)


def nearest_in_time(frame_times_s: NDArray[np.float64], wanted_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the frame nearest to each wanted time: f64 [M] -> i64 [M]. frame_times_s: f64 [N], ascending."""
    middles_s = (frame_times_s[:-1] + frame_times_s[1:]) / 2
    return np.searchsorted(middles_s + _TIE_S, wanted_s, side="left").astype(np.int64)


def _source_times(
    output_s: NDArray[np.float64], info: VideoInfo, length_mode: LengthMode, total_s: float
) -> NDArray[np.float64]:
    if length_mode == "bounce":
        span_s = float(info.frame_times_s[-1])
        if span_s <= 0:
            return np.zeros_like(output_s)
        phase_s = np.mod(output_s, 2 * span_s)
        return np.minimum(phase_s, 2 * span_s - phase_s)
    if length_mode == "loop":
        # A time that ends a round exactly belongs to the next one, also when it falls short by rounding.
        return np.mod(output_s + _TIE_S / 2, info.duration_s)
    if length_mode == "remap":
        return output_s * (info.duration_s / total_s)
    return output_s
