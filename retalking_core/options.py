"""Options of one render, as an engine takes them. Values, bounds and defaults stand in `vocabulary.options`."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field

from retalking_core.vocabulary.options import (
    DEFAULT_OPTIONS,
    Compat,
    FaceBox,
    FaceChoice,
    FacePoint,
    FaceTrackId,
    LengthMode,
    MissingFace,
    OutputOptions,
    SoundOptions,
    UpperFace,
)

__all__ = [
    "Compat",
    "FaceBox",
    "FaceChoice",
    "FacePoint",
    "FaceTrackId",
    "LengthMode",
    "MissingFace",
    "OutputOptions",
    "RenderOptions",
    "SoundOptions",
    "UpperFace",
]


@dataclass(frozen=True)
class RenderOptions:
    """Options of one render, defaults as served. docs/options.md explains each.

    crop: left, top, right, bottom margins to cut before looking for a face, as fractions 0..1 of the upright frame (the
    output keeps the full frame). pads: top, bottom, left, right growth of the face box in pixels. fps: rate of a still
    image. expression: a template's name or the path of an image. audio_track: of the speech file, by number from 1 or
    by language; None: the track that players play. transcript: what is said in the speech, empty if unknown.
    face_cache_scope: lower-case hex (or nothing) that the keys of the face cache begin with; renders of different
    scopes see nothing of each other's entries.
    """

    expression: str = DEFAULT_OPTIONS.expression
    upper_face: UpperFace = DEFAULT_OPTIONS.upper_face
    length_mode: LengthMode = DEFAULT_OPTIONS.length_mode
    face: FaceChoice = DEFAULT_OPTIONS.face
    missing_face: MissingFace = DEFAULT_OPTIONS.missing_face
    crop: tuple[float, float, float, float] = astuple(DEFAULT_OPTIONS.crop)
    pads: tuple[int, int, int, int] = astuple(DEFAULT_OPTIONS.pads)
    one_shot: bool = DEFAULT_OPTIONS.one_shot
    fps: float = DEFAULT_OPTIONS.fps
    output: OutputOptions = field(default_factory=OutputOptions)
    sound: SoundOptions = field(default_factory=SoundOptions)
    audio_track: str | None = DEFAULT_OPTIONS.audio_track
    transcript: str = DEFAULT_OPTIONS.transcript
    seed: int = DEFAULT_OPTIONS.seed
    compat: Compat = "none"
    face_cache_scope: str = ""
