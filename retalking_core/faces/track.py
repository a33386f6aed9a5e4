"""Face tracks: tracker interface, choice among several faces, temporal smoothing, frames without a face.

The whole track is known before the first frame is drawn, so smoothing looks as far ahead as back (zero phase). Around
each frame a quadratic is fitted to its neighbors in time, over a wide and over a narrow window. The wide fit is used
while the face is still; where it misses the measured points by more than their noise, the narrow one takes over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retalking_core.errors import FaceMissingError
from retalking_core.faces.landmarks import MOUTH, bounding_box, face_scale
from retalking_core.notes import Note, frame_ranges_s
from retalking_core.numerics import smoothstep
from retalking_core.options import FaceBox, FaceChoice, FacePoint
from retalking_core.types import FaceTrack, FrameSource
from retalking_core.vocabulary.options import is_person

OnFrame = Callable[[int, int], None]


@dataclass(frozen=True)
class TrackRequest:
    """Which face to follow where.

    indices: source frame numbers to analyze, ascending, each once. choice: a place or a rank; people and speakers have
    one since `settle_faces`. crop: left, top, right, bottom margins to leave out of the search, fractions 0..1 of the
    upright frame.
    """

    indices: Sequence[int]
    choice: FaceChoice = "largest"
    crop: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if is_person(self.choice):
            raise ValueError(f"{self.choice} is no place: `settle_faces` comes before the tracking")


class FaceTracker(Protocol):
    """Follows one face through a video."""

    def warm_up(self) -> None:
        """Load the models."""
        ...

    def track(self, source: FrameSource, request: TrackRequest, on_frame: OnFrame) -> FaceTrack:
        """The chosen face on the frames asked for; frames not asked for are invisible (NaN).

        on_frame: called with (frames analyzed, frames in all); what it raises ends the tracking.
        Raises: FaceNotFoundError.
        """
        ...


Box = NDArray[np.float32]


def choose_face(boxes: Sequence[Box], choice: FaceChoice, width: int, height: int) -> int | None:
    """Index of the chosen box (left, top, right, bottom px), or None where no box answers the choice.

    A point means the face whose center is nearest, at most one and a half face sizes away; a box means the largest face
    whose center lies inside it.
    """
    if not boxes:
        return None
    stack = np.stack(boxes).astype(np.float64)
    centers = (stack[:, :2] + stack[:, 2:]) / 2
    areas = (stack[:, 2] - stack[:, 0]) * (stack[:, 3] - stack[:, 1])
    if isinstance(choice, FacePoint):
        distances = np.linalg.norm(centers - (choice.x, choice.y), axis=1) / np.sqrt(areas)
        best = int(distances.argmin())
        return best if distances[best] <= 1.5 else None
    if isinstance(choice, FaceBox):
        low, high = (choice.left, choice.top), (choice.right, choice.bottom)
        inside = ((centers >= low) & (centers <= high)).all(axis=1)
        return int(np.where(inside, areas, -1).argmax()) if inside.any() else None
    rank = {
        "largest": -areas,
        "left_most": centers[:, 0],
        "right_most": -centers[:, 0],
        "top_most": centers[:, 1],
        "bottom_most": -centers[:, 1],
        "center": np.linalg.norm(centers - (width / 2, height / 2), axis=1),
    }[str(choice)]
    return int(rank.argmin())


# Half widths in frames. The mouth moves at up to 6 Hz in speech, the head at 2 Hz.
RIGID_WIDE, RIGID_NARROW = 6, 2
MOUTH_WIDE, MOUTH_NARROW = 2, 1
# In units of `face_scale`. dlib's points scatter by 0.003 to 0.005 around a local fit (measured on three clips); set
# above that, so that noise alone never counts as motion.
NOISE = 0.008
LONGEST_GAP = 3


def smooth_track(times_s: NDArray[np.float64], landmarks: NDArray[np.float32], cuts: NDArray[np.bool_]) -> FaceTrack:
    """Fill short gaps and smooth. landmarks: f32 [N, 68, 2], NaN where lost; cuts: bool [N], a new shot begins here."""
    points = landmarks.copy()
    for start, stop in visible_runs(~np.isnan(points[:, 0, 0])):
        _fill_after(points, cuts, start, stop)
    visible = ~np.isnan(points[:, 0, 0])
    shots = np.cumsum(cuts, dtype=np.int64)
    for start, stop in visible_runs(visible, shots):
        points[start:stop] = _smooth_run(times_s[start:stop], points[start:stop])
    boxes = np.full((len(points), 4), np.nan, np.float32)
    boxes[visible] = bounding_box(points[visible])
    return FaceTrack(boxes, points, visible)


def visible_runs(visible: NDArray[np.bool_], shots: NDArray[Any] | None = None) -> list[tuple[int, int]]:
    """Half-open index ranges in which the face is visible without a break or a cut."""
    label = np.where(visible, 1 if shots is None else shots + 1, 0)
    edges = np.flatnonzero(np.diff(label, prepend=0, append=0))
    return [(int(a), int(b)) for a, b in pairwise(edges) if visible[a]]


def _fill_after(points: NDArray[np.float32], cuts: NDArray[np.bool_], start: int, stop: int) -> None:
    """Interpolate the gap behind a run, where it is short, inside one shot, and the face has not gone far."""
    rest = np.flatnonzero(~np.isnan(points[stop:, 0, 0]))
    if len(rest) == 0 or not 0 < rest[0] <= LONGEST_GAP or cuts[stop : stop + rest[0] + 1].any():
        return
    before, after, gap = points[stop - 1], points[stop + rest[0]], int(rest[0])
    travel = np.linalg.norm(after.mean(axis=0) - before.mean(axis=0)) / face_scale(before)
    if travel < 0.15 * (gap + 1):
        share = (np.arange(1, gap + 1, dtype=np.float32) / (gap + 1))[:, None, None]
        points[stop : stop + gap] = before + (after - before) * share


def _smooth_run(times_s: NDArray[np.float64], points: NDArray[np.float32]) -> NDArray[np.float32]:
    noise_px = NOISE * float(np.median(face_scale(points)))
    smooth = _adaptive(times_s, points, RIGID_WIDE, RIGID_NARROW, noise_px)
    smooth[:, MOUTH] = _adaptive(times_s, points[:, MOUTH], MOUTH_WIDE, MOUTH_NARROW, noise_px)
    return smooth


def _adaptive(
    times_s: NDArray[np.float64], points: NDArray[np.float32], wide: int, narrow: int, noise_px: float
) -> NDArray[np.float32]:
    slow = local_fit(times_s, points, wide)
    fast = local_fit(times_s, points, narrow)
    # Misfit of a point, averaged over three frames so that single outliers do not count as motion.
    misfit = ((points - slow) ** 2).sum(axis=2)
    padded = np.pad(misfit, ((1, 1), (0, 0)), mode="edge")
    misfit = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    moving = np.clip(misfit / (2 * noise_px**2) - 1, 0, None)
    share = (moving / (moving + 2))[..., None]
    return (slow + (fast - slow) * share).astype(np.float32)


def local_fit(times_s: NDArray[np.float64], points: NDArray[np.float32], half: int) -> NDArray[np.float32]:
    """Local quadratic regression at each frame over its `half` neighbors on both sides (tricube weights).

    times_s: [N]; points: [N, ...]. At the ends of a run, where neighbors are missing on one side, a line is fitted.
    """
    count = len(points)
    if count < 3 or half < 1:
        return points.astype(np.float32).copy()
    offsets = np.arange(-half, half + 1)
    index = np.arange(count)[:, None] + offsets
    weight = (1 - (np.abs(offsets) / (half + 1)) ** 3) ** 3 * ((index >= 0) & (index < count))
    index = np.clip(index, 0, count - 1)
    step = max(float(np.median(np.diff(times_s))), 1e-6)
    lag = (times_s[index] - times_s[:, None]) / step
    full = (np.arange(count) >= half) & (np.arange(count) < count - half) & (half > 1)
    basis = np.stack([np.ones_like(lag), lag, np.where(full[:, None], lag**2, 0)], axis=2)
    normal = np.einsum("nkp,nk,nkq->npq", basis, weight, basis) + np.diag([0, 1e-6, 1e-6])
    # The fitted value at lag 0 as a weighted sum of the neighbors: memory stays that of the track itself.
    first = np.linalg.solve(normal, np.broadcast_to(np.array([[1.0], [0], [0]]), (count, 3, 1)))[:, :, 0]
    shares = np.einsum("nkp,np->nk", basis, first) * weight
    flat = points.reshape(count, -1)
    fitted = sum(shares[:, k, None] * flat[index[:, k]] for k in range(len(offsets)))
    return fitted.reshape(points.shape).astype(np.float32)


FADE_S = 0.16
# A line begins and ends in a moving mouth: each frame of its fades shows less of what is said.
LINE_FADE_S = 0.08


def effect_strength(seen: NDArray[np.bool_], speaks: NDArray[np.bool_], fps: Fraction) -> NDArray[np.float32]:
    """How much of a speaker's effect each output frame shows, f32 [M], 0 where its face passes through .. 1. seen: the
    face is seen; speaks: one of its lines is spoken; bool [M] each."""
    by_face = fade_strength(seen, round(FADE_S * float(fps)))
    return np.minimum(by_face, fade_strength(speaks, round(LINE_FADE_S * float(fps))))


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


def covered_notes(covered: NDArray[np.bool_], fps: Fraction) -> list[Note]:
    """What a report says about output frames (bool [M]) on which the mouth is covered: at most one note."""
    ranges_s = frame_ranges_s(np.flatnonzero(covered), fps)
    if not ranges_s:
        return []
    seconds = sum(end - start for start, end in ranges_s)
    sentence = (
        f"Something is in front of the mouth for {seconds:.2f} s (a hand, a cup, a microphone, text). These frames are "
        "left as they were; the effect fades out before them and in after them."
    )
    return [Note("mouth_covered", sentence, ranges_s)]


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
