"""Options of a job, as keyword arguments of `submit`. The service checks the values; the command checks names and
types before it sends anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from os import PathLike
from typing import Any, Literal, Required

from pydantic import with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from retalking_client.models import BatchSummary, Status, Upload

MediaInput = str | PathLike[str] | Upload
"""Path of a file, http(s) URL that the service fetches, or a finished upload."""


_NO_OTHER_KEYS = with_config(extra="forbid")


@_NO_OTHER_KEYS
class FacePoint(TypedDict, total=False):
    """The face nearest to a point (pixels of the upright picture) at a time (seconds)."""

    x: float
    y: float
    time_s: float


@_NO_OTHER_KEYS
class FaceBox(TypedDict):
    """The face inside a box of the upright picture, in pixels."""

    left: float
    top: float
    right: float
    bottom: float


@_NO_OTHER_KEYS
class FaceTrackId(TypedDict):
    """The face of one person, by the id that `analyze` gave it, such as `person_2`."""

    track: str


@_NO_OTHER_KEYS
class Margins(TypedDict, total=False):
    """`crop`: fractions of the picture. `pads`: pixels."""

    left: float
    top: float
    right: float
    bottom: float


@_NO_OTHER_KEYS
class OutputOptions(TypedDict, total=False):
    """crf: 0..51, lower is better and larger. badge: draw a visible note that the video is synthetic. put_url: takes
    the result by PUT. prefix: folder in the bucket of the service where a copy is put."""

    crf: int
    max_height: int | None
    container: Literal["mp4", "mov", "mkv"]
    fps: float | None
    badge: bool
    put_url: str | None
    prefix: str | None


@_NO_OTHER_KEYS
class SoundOptions(TypedDict, total=False):
    """mix: what becomes of the video's own sound. ducking_db: its level under the speech, with mix `over`."""

    mix: Literal["replace", "over", "segments_only"]
    ducking_db: float


FaceChoice = (
    Literal["largest", "left_most", "right_most", "top_most", "bottom_most", "center", "speaking"]
    | FacePoint
    | FaceBox
    | FaceTrackId
)


@_NO_OTHER_KEYS
class Segment(TypedDict, total=False):
    """One speech of one face. Times are seconds on the video's clock.

    audio: the speech; segments may share one. end_s: by default where the speech ends. audio_offset_s: skipped at the
    start of the sound file. face, expression, upper_face: by default those of the job; `image` is the job's picture.
    """

    audio: Required[MediaInput]
    start_s: Required[float]
    end_s: float | None
    audio_offset_s: float
    face: FaceChoice | None
    expression: Literal["neutral", "smile", "image"] | None
    upper_face: Literal["original", "surprise", "angry", "sad"] | None


@_NO_OTHER_KEYS
class AnalyzeOptions(TypedDict, total=False):
    """All optional: what every kind of job takes."""

    webhook_url: str | None
    webhook_events: list[str]
    priority: int
    expires_in_s: int | None
    metadata: dict[str, Any]


@_NO_OTHER_KEYS
class SubmitOptions(AnalyzeOptions, total=False):
    """All optional. `GET /engines` lists meaning, range and default of each."""

    engine: str
    expression: MediaInput
    upper_face: Literal["original", "surprise", "angry", "sad"]
    length_mode: Literal["cut_off", "loop", "bounce", "silence", "remap"]
    face: FaceChoice
    missing_face: Literal["pass_through", "fail"]
    crop: Margins
    pads: Margins
    one_shot: bool
    fps: float
    output: OutputOptions
    sound: SoundOptions
    evaluate: list[str] | None
    evaluate_policy: Literal["inline", "after", "none"]
    audio_track: int | str | None
    transcript: str
    seed: int


@_NO_OTHER_KEYS
class BatchJob(SubmitOptions, total=False):
    """An item of a batch: inputs as of `submit`, either `audio` or `segments`, and its options."""

    video: Required[MediaInput]
    audio: MediaInput
    segments: list[Segment]


@_NO_OTHER_KEYS
class AccountChanges(TypedDict, total=False):
    """What to change of an account. A limit of None becomes that of the deployment."""

    name: str
    requests_per_minute: int | None
    live_jobs: int | None
    stored_bytes: int | None


@_NO_OTHER_KEYS
class JobFilters(TypedDict, total=False):
    """Which jobs to list; None: no filter. metadata: with all of these values. webhook: with an event that no receiver
    took. engine: that rendered it, or that it asks for. batch: of which it is an item. Times need a zone."""

    status: Status | Sequence[Status] | None
    created_after: datetime | str | None
    created_before: datetime | str | None
    metadata: Mapping[str, Any] | None
    webhook: Literal["undelivered"] | None
    engine: str | None
    batch: BatchSummary | str | None
