"""Where the face is visible in the result: fades beside faceless ranges, their report, and `missing_face=fail`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retalking_core.errors import FaceMissingError
from retalking_core.faces.smoothing import visible_runs
from retalking_core.numerics import smoothstep
from retalking_core.types import FaceTrack, FrameSource

FADE_S = 0.16


def fade_strength(shown: NDArray[np.bool_], frames: int) -> NDArray[np.float32]:
    """Effect strength per output frame: 0 without a face, rising over `frames` beside every faceless range."""
    strength = np.zeros(len(shown), np.float32)
    for start, stop in visible_runs(shown):
        inward = np.full(stop - start, frames + 1)
        if start > 0:
            inward = np.minimum(inward, np.arange(1, stop - start + 1))
        if stop < len(shown):
            inward = np.minimum(inward, np.arange(stop - start, 0, -1))
        t = inward / (frames + 1)
        strength[start:stop] = smoothstep(t)
    return strength


def faceless_ranges_s(
    visible: NDArray[np.bool_], times_s: NDArray[np.float64], end_s: float
) -> list[tuple[float, float]]:
    """Ranges in which no face is visible: from the time of their first frame to that of the next frame with one."""
    bounds = np.append(times_s, end_s)
    return [(round(float(bounds[a]), 3), round(float(bounds[b]), 3)) for a, b in visible_runs(~visible)]


def refuse_faceless(track: FaceTrack, indices: NDArray[np.int64], source: FrameSource) -> None:
    """Raises: FaceMissingError with the ranges, in seconds of the source video, that show no face."""
    visible = track.visible[indices]
    if visible.all():
        return
    times_s = source.info.frame_times_s
    end_s = float(times_s[indices[-1] + 1]) if indices[-1] + 1 < len(times_s) else source.info.duration_s
    ranges = faceless_ranges_s(visible, times_s[indices], end_s)
    listed = ", ".join(f"{start:.2f}-{stop:.2f} s" for start, stop in ranges[:5])
    raise FaceMissingError(
        f"The video shows no usable face at {listed}{' and more' if len(ranges) > 5 else ''}; cut these parts out "
        "or send missing_face=pass_through.",
        ranges_s=ranges,
    )
