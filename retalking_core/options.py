"""What a caller can ask of a render. The HTTP shape of the same options is `jobs.models.JobOptions`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

LengthMode = Literal["cut_off", "loop", "bounce", "silence", "remap"]
MissingFace = Literal["pass_through", "fail"]
UpperFace = Literal["original", "surprise", "angry", "sad"]
Compat = Literal["none", "original"]


@dataclass(frozen=True)
class FaceAtPoint:
    """The face nearest to a point in the picture (pixels of the upright frame) at a time."""

    x_px: float
    y_px: float
    time_s: float = 0.0


@dataclass(frozen=True)
class FaceInBox:
    """The face inside a box (left, top, right, bottom; pixels of the upright frame) on the first frame with one."""

    left_px: float
    top_px: float
    right_px: float
    bottom_px: float


FaceChoice = (
    Literal["largest", "left_most", "right_most", "top_most", "bottom_most", "centre"] | FaceAtPoint | FaceInBox
)


@dataclass(frozen=True)
class OutputOptions:
    """crf: x264 quality, 0..51, lower is better. max_height: scale down (never up) to this many rows. badge: draw a
    visible note that the video is synthetic into a corner."""

    crf: int = 18
    max_height: int | None = None
    container: Literal["mp4", "mov", "mkv"] = "mp4"
    fps: float | None = None
    badge: bool = False


@dataclass(frozen=True)
class RenderOptions:
    """Options of one render, defaults as served. docs/options.md explains each.

    crop: left, top, right, bottom margins to cut before looking for a face, as fractions 0..1 of the upright frame (the
    output keeps the full frame). pads: top, bottom, left, right growth of the face box in pixels. fps: rate of a still
    image. expression: `neutral`, `smile` or the path of an image. audio_track: of the speech file, by number from 1 or
    by language; None: the track that players play. face_cache_scope: lower-case hex (or nothing) that the keys of the
    face cache begin with; renders of different scopes see nothing of each other's entries.
    """

    expression: str = "neutral"
    upper_face: UpperFace = "original"
    length_mode: LengthMode = "bounce"
    face: FaceChoice = "largest"
    missing_face: MissingFace = "pass_through"
    crop: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    pads: tuple[int, int, int, int] = (0, 20, 0, 0)
    one_shot: bool = False
    fps: float = 25.0
    output: OutputOptions = field(default_factory=OutputOptions)
    seed: int = 0
    compat: Compat = "none"
    audio_track: str | None = None
    face_cache_scope: str = ""
