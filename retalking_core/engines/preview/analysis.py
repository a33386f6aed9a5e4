"""What the preview engine has learned about a clip before it draws, and the drawing of every output frame from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retalking_core.engines.presence import FADE_S, fade_strength
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
from retalking_core.errors import EngineFaultError
from retalking_core.progress import StageClock
from retalking_core.types import FaceTrack, Frame, FrameSource, Timeline

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class PreviewAnalysis:
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
) -> PreviewAnalysis:
    """Learn the clip's own mouth and pick the inside of it."""
    rest = learn_rest(track)
    black = 0.0 if source.info.color.full_range else 16.0
    interior = _find_interior(source, track, rest, black)
    shown = track.visible[timeline.source_index]
    strength = fade_strength(shown, round(FADE_S * float(timeline.fps)))
    return PreviewAnalysis(timeline, track, motion, rest, interior, strength, pads, black)


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
    scene: PreviewAnalysis, source: FrameSource, clock: StageClock, segment: range | None = None
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


def _draw(scene: PreviewAnalysis, k: int, frame: Frame) -> tuple[Frame, Box]:
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
