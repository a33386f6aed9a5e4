"""Options as asked over HTTP, translated for an engine."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

from retalking_core.options import RenderOptions
from retalking_core.vocabulary.options import JobOptions


def render_options(asked: JobOptions, expression_image: Path | None, owner: str = "") -> RenderOptions:
    """expression_image: the fetched picture where the job brought one; it takes the place of a template's name. owner:
    of the job; the face cache keeps the entries of each owner apart."""
    return RenderOptions(
        expression=str(expression_image) if expression_image else asked.expression,
        upper_face=asked.upper_face,
        length_mode=asked.length_mode,
        face=asked.face,
        missing_face=asked.missing_face,
        crop=astuple(asked.crop),
        pads=astuple(asked.pads),
        one_shot=asked.one_shot,
        fps=asked.fps,
        output=asked.output,
        seed=asked.seed,
        face_cache_scope=owner,
    )
