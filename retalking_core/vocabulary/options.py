"""Options of a render: names, values, bounds, defaults and what each value means.

`JobOptions` is what a caller sends; the library's `RenderOptions` takes its types and defaults from here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.dataclasses import dataclass
from pydantic_core import to_json

from retalking_core.vocabulary.containers import OutputContainer
from retalking_core.vocabulary.engines import EngineChoice
from retalking_core.vocabulary.metrics import MetricName

MAX_SIDE_PX = 16384
MAX_SEGMENTS = 200
# Different faces or looks in the segments of one render, each of which is followed and drawn by itself.
MAX_SPEAKERS = 8
# Shorter than this no syllable is.
MIN_SEGMENT_S = 0.1
# Characters: about six minutes of speech.
MAX_TRANSCRIPT = 5000

ExpressionName = Literal["neutral", "smile", "image"]
UpperFace = Literal["original", "surprise", "angry", "sad"]
LengthMode = Literal["cut_off", "loop", "bounce", "silence", "remap"]
FaceName = Literal["largest", "left_most", "right_most", "top_most", "bottom_most", "center", "speaking"]
SoundMix = Literal["replace", "over", "segments_only"]
SPEAKING: Final = "speaking"
"""Value of `face` that asks for a person whom the video's own sound tells, and not for a place."""
PERSON_ID = r"^person_[1-9][0-9]{0,3}$"
"""Pattern of the ids of people of a video."""
MissingFace = Literal["pass_through", "fail"]
Compat = Literal["none", "original"]

EXPRESSION_IMAGE = "image"
"""Value of `expression` for a picture that the caller sends; the others name a template."""
EXPRESSION_TEMPLATES = tuple(name for name in get_args(ExpressionName) if name != EXPRESSION_IMAGE)

_CONFIG = ConfigDict(extra="forbid")


def _describe_values(**meanings: str) -> dict[str, Any]:
    """Descriptions of the values of an option (extension of OpenAPI by Redocly)."""
    return {"x-enumDescriptions": meanings}


@dataclass(frozen=True, config=_CONFIG)
class FacePoint:
    """The face nearest to a point of the upright picture at a given time."""

    x: float = Field(ge=0, le=MAX_SIDE_PX, description="Pixels from the left")
    y: float = Field(ge=0, le=MAX_SIDE_PX, description="Pixels from the top")
    time_s: float = Field(default=0.0, ge=0, le=86400)


@dataclass(frozen=True, config=_CONFIG)
class FaceBox:
    """The face inside a box of the upright picture, in pixels."""

    left: float = Field(ge=0, le=MAX_SIDE_PX)
    top: float = Field(ge=0, le=MAX_SIDE_PX)
    right: float = Field(ge=0, le=MAX_SIDE_PX)
    bottom: float = Field(ge=0, le=MAX_SIDE_PX)


@dataclass(frozen=True, config=_CONFIG)
class FaceTrackId:
    """The face of one person, by the id that the analysis of the same video gave (`POST /v1/videos/analyze`)."""

    track: str = Field(pattern=PERSON_ID, examples=["person_2"])


FaceChoice = FaceName | FacePoint | FaceBox | FaceTrackId


def is_person(choice: FaceChoice) -> bool:
    """Whether a choice asks for a person instead of a place."""
    return choice == SPEAKING or isinstance(choice, FaceTrackId)


@dataclass(frozen=True, config=_CONFIG)
class Crop:
    """Margins to ignore when detecting the face, as fractions of the picture. The output keeps the whole frame."""

    left: float = Field(default=0.0, ge=0, lt=1)
    top: float = Field(default=0.0, ge=0, lt=1)
    right: float = Field(default=0.0, ge=0, lt=1)
    bottom: float = Field(default=0.0, ge=0, lt=1)


@dataclass(frozen=True, config=_CONFIG)
class Pads:
    """Padding of the face box, in pixels."""

    top: int = Field(default=0, ge=-500, le=500)
    bottom: int = Field(default=20, ge=-500, le=500)
    left: int = Field(default=0, ge=-500, le=500)
    right: int = Field(default=0, ge=-500, le=500)


@dataclass(frozen=True, config=_CONFIG)
class OutputOptions:
    """How the result is encoded."""

    crf: int = Field(default=18, ge=0, le=51, description="x264 quality; lower is better, and a larger file")
    max_height: int | None = Field(
        default=None, ge=64, le=8192, description="Scale down to this many rows; never scales up"
    )
    container: OutputContainer = "mp4"
    fps: float | None = Field(
        default=None, ge=1, le=120, description="Output frame rate; absent: the average rate of the input"
    )
    badge: bool = Field(default=False, description="Draw a badge in a corner that labels the video as synthetic")


@dataclass(frozen=True, config=_CONFIG)
class SoundOptions:
    """What of the video's own sound is kept under and between the speech."""

    mix: SoundMix = Field(
        default="replace",
        description="The video's own sound in the result",
        json_schema_extra=_describe_values(
            replace="Left out: the speech alone, and silence where nobody speaks",
            over="Kept all through, lowered by `ducking_db` while somebody speaks",
            segments_only="Kept where nobody speaks; while somebody speaks, the speech alone",
        ),
    )
    ducking_db: float = Field(
        default=-12.0, ge=-60, le=0, description="Level of the video's own sound under the speech, with mix `over`"
    )


class JobOptions(BaseModel):
    """Options of a render."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: EngineChoice = Field(
        "auto",
        description="Which engine renders: one of these, or the name of an engine that a plug-in adds (`GET /engines`)",
        json_schema_extra=_describe_values(
            auto="The best engine that the live workers offer",
            videoretalking="The neural method; needs checkpoints and a GPU",
            preview="A landmark warp that runs on any CPU: a preview, not the neural method",
        ),
    )
    expression: ExpressionName | Annotated[str, StringConstraints(pattern=r"^upload:up_[0-9a-f]{32}$")] = Field(
        "neutral",
        description="Expression template: neutral, smile, `image` (a picture sent as the file part `expression`), "
        "or `upload:<id>` of an uploaded picture",
        json_schema_extra=_describe_values(
            neutral="A calm face", smile="A smiling face", image="The expression of a picture that you send"
        ),
    )
    upper_face: UpperFace = Field(
        "original",
        description="Emotion of eyes and brows",
        json_schema_extra=_describe_values(
            original="Unchanged", surprise="Raised brows", angry="Lowered brows", sad="Brows drawn together"
        ),
    )
    length_mode: LengthMode = Field(
        "bounce",
        description="How to handle video and speech of different lengths",
        json_schema_extra=_describe_values(
            cut_off="As long as the shorter of the two",
            loop="As long as the speech; the video starts over from its first picture",
            bounce="As long as the speech; the video runs forward, then backward, and so on",
            silence="As long as the longer of the two; silence follows the speech, or the last picture is held",
            remap="As long as the speech; the video is stretched or compressed in time to fit",
        ),
    )
    face: FaceChoice = Field(
        "largest",
        description="Which face to animate",
        json_schema_extra=_describe_values(
            largest="The largest face",
            left_most="The face farthest left",
            right_most="The face farthest right",
            top_most="The face farthest up",
            bottom_most="The face farthest down",
            center="The face nearest to the center of the picture",
            speaking="The face that speaks in the video's own sound; where none does, the largest",
        ),
    )
    missing_face: MissingFace = Field(
        "pass_through",
        description="Frames without a usable face",
        json_schema_extra=_describe_values(pass_through="Left unchanged", fail="The job fails and names the frames"),
    )
    crop: Crop = Field(default_factory=Crop)
    pads: Pads = Field(default_factory=Pads)
    one_shot: bool = Field(False, description="Take the expression from the first frame only")
    fps: float = Field(25.0, ge=1, le=120, description="Frame rate when the input is a still image")
    output: OutputOptions = Field(default_factory=OutputOptions)
    sound: SoundOptions = Field(default_factory=SoundOptions)
    evaluate: list[MetricName] | None = Field(
        None, max_length=40, description="Metrics to compute; absent: all whose checkpoints are available; []: none"
    )
    audio_track: str | None = Field(
        None,
        pattern="^([1-9][0-9]?|[A-Za-z]{2,3})$",
        coerce_numbers_to_str=True,
        description="Sound track of the speech file: its number among the sound tracks, from 1, or its language as the "
        "file states it; absent: the one that players play",
    )
    transcript: str = Field(
        "",
        max_length=MAX_TRANSCRIPT,
        description="What is said in the speech, in any alphabet whose letters stand for sounds: the lips follow it "
        "more closely. Empty: the lips follow the sound alone",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Random seed; the same seed gives the same result")


DEFAULT_OPTIONS = JobOptions()


def refused_options(options: object, defaults: object, unsupported: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Option -> value, for each value in `options` that an engine does not support.

    options, defaults: both `JobOptions`, or both the library's `RenderOptions`. unsupported: as in `EngineInfo`; dotted
    names address nested ones. Any expression but a template (an upload, a path) counts as `image`.
    """
    refused = {}
    for option, values in unsupported.items():
        value = _text(_value(options, option))
        is_default = value == _text(_value(defaults, option))
        if value in values or (not values and not is_default):
            refused[option] = value
    return refused


def _value(options: object, option: str) -> Any:
    value: Any = options
    for step in option.split("."):
        value = getattr(value, step, None)
    return EXPRESSION_IMAGE if option == "expression" and value not in EXPRESSION_TEMPLATES else value


def _text(value: Any) -> str:
    """A value as engines and messages write it: JSON, but strings without quotes."""
    return value if isinstance(value, str) else to_json(value).decode()
