"""What can be asked of a job, as keyword arguments of `submit`. The service checks the values."""

from __future__ import annotations

from os import PathLike
from typing import Any, Literal, TypedDict

from retalking_client.models import Upload

MediaInput = str | PathLike[str] | Upload
"""A file by its path, an http(s) address the service fetches, or a file that was uploaded before."""


class FacePoint(TypedDict, total=False):
    """The face nearest to a point of the upright picture (pixels) at a time."""

    x: float
    y: float
    time_s: float


class FaceBox(TypedDict):
    """The face inside a box of the upright picture, in pixels."""

    left: float
    top: float
    right: float
    bottom: float


class Margins(TypedDict, total=False):
    """`crop`: fractions of the picture. `pads`: pixels."""

    left: float
    top: float
    right: float
    bottom: float


class OutputOptions(TypedDict, total=False):
    """crf: 0..51, lower is better and larger. badge: draw a visible note that the video is synthetic."""

    crf: int
    max_height: int | None
    container: Literal["mp4", "mov", "mkv"]
    fps: float | None
    badge: bool


class SubmitOptions(TypedDict, total=False):
    """Every one is optional; `GET /engines` lists their meaning, ranges and defaults."""

    engine: Literal["auto", "videoretalking", "preview"]
    expression: MediaInput
    upper_face: Literal["original", "surprise", "angry", "sad"]
    length_mode: Literal["cut_off", "loop", "bounce", "silence", "remap"]
    face: Literal["largest", "left_most", "right_most", "top_most", "bottom_most", "centre"] | FacePoint | FaceBox
    missing_face: Literal["pass_through", "fail"]
    crop: Margins
    pads: Margins
    one_shot: bool
    fps: float
    output: OutputOptions
    evaluate: list[str] | None
    seed: int
    webhook_url: str | None
    webhook_events: list[str]
    priority: int
    expires_in_s: int | None
    metadata: dict[str, Any]
