"""Options as asked over HTTP, translated for an engine."""

from __future__ import annotations

from pathlib import Path

from jobs.models import FaceBox, FacePoint, JobOptions
from retalking_core.options import FaceAtPoint, FaceChoice, FaceInBox, OutputOptions, RenderOptions


def render_options(asked: JobOptions, expression_image: Path | None, owner: str = "") -> RenderOptions:
    """expression_image: the fetched picture where the job brought one; it takes the place of a template's name. owner:
    of the job; the face cache keeps the entries of each owner apart."""
    crop, pads, output = asked.crop, asked.pads, asked.output
    return RenderOptions(
        expression=str(expression_image) if expression_image else asked.expression,
        upper_face=asked.upper_face,
        length_mode=asked.length_mode,
        face=_face_choice(asked),
        missing_face=asked.missing_face,
        crop=(crop.left, crop.top, crop.right, crop.bottom),
        pads=(pads.top, pads.bottom, pads.left, pads.right),
        one_shot=asked.one_shot,
        fps=asked.fps,
        output=OutputOptions(output.crf, output.max_height, output.container, output.fps, output.badge),
        seed=asked.seed,
        face_cache_scope=owner,
    )


def _face_choice(asked: JobOptions) -> FaceChoice:
    face = asked.face
    if isinstance(face, FacePoint):
        return FaceAtPoint(face.x, face.y, face.time_s)
    if isinstance(face, FaceBox):
        return FaceInBox(face.left, face.top, face.right, face.bottom)
    return face
