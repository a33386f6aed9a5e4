"""What the preview engine has learned about a clip before it draws, and the drawing of every output frame from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retalking_core.engines.preview.mouth_field import region_box, solve_field
from retalking_core.engines.preview.mouth_interior import (
    MouthInterior,
    paint_interior,
    rank_open_frames,
    sharpest,
    skin_light,
    take_interior,
)
from retalking_core.engines.preview.mouth_motion import MouthMotion
from retalking_core.engines.preview.mouth_render import draw_mouth
from retalking_core.engines.preview.mouth_shape import MouthRest, face_axes, gap_of, learn_rest, plan_shape
from retalking_core.errors import EngineFaultError, FaceMissingError
from retalking_core.faces.smoothing import visible_runs
from retalking_core.progress import StageClock
from retalking_core.types import FaceTrack, Frame, FrameSource, Timeline

Box = tuple[int, int, int, int]
FADE_S = 0.16


@dataclass(frozen=True)
class PreviewScene:
    """Everything that drawing needs. strength: f32 [M], 0 where the frame passes through .. 1 in full effect."""

    timeline: Timeline
    track: FaceTrack
    motion: MouthMotion
    rest: MouthRest
    interior: MouthInterior
    strength: NDArray[np.float32]
    pads: tuple[int, int, int, int]
    black: float


def prepare_scene(
    source: FrameSource, timeline: Timeline, track: FaceTrack, motion: MouthMotion, pads: tuple[int, int, int, int]
) -> PreviewScene:
    """Learn the clip's own mouth and pick the inside of it."""
    rest = learn_rest(track)
    black = 0.0 if source.info.colour.full_range else 16.0
    interior = _find_interior(source, track, rest, black)
    shown = track.visible[timeline.source_index]
    strength = fade_strength(shown, round(FADE_S * float(timeline.fps)))
    return PreviewScene(timeline, track, motion, rest, interior, strength, pads, black)


def _find_interior(source: FrameSource, track: FaceTrack, rest: MouthRest, black: float) -> MouthInterior:
    candidates = sorted(rank_open_frames(gap_of(track), rest.closed_gap))
    if not candidates:
        first = int(np.flatnonzero(track.visible)[0])
        frame = next(iter(source.frames_at([first])))
        return paint_interior(frame, track.landmarks[first], black)
    frames = list(source.frames_at(candidates))
    best = sharpest(frames, [track.landmarks[k] for k in candidates])
    marks = track.landmarks[candidates[best]]
    return take_interior(frames[best], marks, face_axes(marks)[1], black)


def synthesize(
    scene: PreviewScene, source: FrameSource, clock: StageClock, segment: range | None = None
) -> Iterator[tuple[Frame, Box | None]]:
    """Every output frame (of the segment) with the box inside which it was changed (None: untouched), in order.

    Bytes of all three planes outside the box are those that `source` gave. Raises: EngineFaultError.
    """
    shown = segment or range(len(scene.timeline.source_index))
    order = scene.timeline.source_index[shown.start : shown.stop].tolist()
    for k, frame in zip(shown, source.frames_at(order), strict=True):
        if scene.strength[k] <= 0:
            yield frame, None
            continue
        with clock.stage("draw"):
            drawn = _draw(scene, k, frame)
        yield drawn


def _draw(scene: PreviewScene, k: int, frame: Frame) -> tuple[Frame, Box]:
    marks = scene.track.landmarks[frame.index]
    strength = float(scene.strength[k])
    wanted = (float(track[k]) for track in (scene.motion.opening, scene.motion.spread, scene.motion.closure))
    shape = plan_shape(marks, scene.rest, float(scene.rest.widths[frame.index]), *wanted, strength)
    box = region_box(shape, scene.pads, *frame.y.shape)
    try:
        field = solve_field(shape, box)
    except np.linalg.LinAlgError as error:
        raise EngineFaultError("The face of one frame could not be warped; try another clip.") from error
    light = skin_light(frame, marks, scene.black)
    return draw_mouth(frame, shape, field, scene.interior, light, scene.black, strength), box


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
        strength[start:stop] = t * t * (3 - 2 * t)
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
