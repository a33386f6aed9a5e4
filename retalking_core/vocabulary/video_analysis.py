"""What the analysis of a video tells: its shots, the people in it, where they are and when they speak.

Samples lie `step_s` apart: number k is of the time k * step_s.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

MOST_PEOPLE = 50
"""People of one analysis: those who are seen longest."""

Box = tuple[float, float, float, float]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TimeRange(_Document):
    """On the video's clock."""

    start_s: float
    end_s: float


class AnalyzedPerson(_Document):
    """One person through the video, over all cuts."""

    track: str = Field(description='For the option `face`: {"track": "person_2"}', examples=["person_2"])
    seen: list[TimeRange] = Field(description="When the face is seen")
    visibility: float = Field(description="Share of the video in which the face is seen, 0..1")
    speaking_s: float = Field(description="Seconds in which this person probably speaks")
    face_px: float = Field(description="Median height of the face, pixels of the upright picture")
    best_s: float = Field(description="When the face is seen best; the thumbnail is of then")
    boxes: list[Box | None] = Field(
        description="Left, top, right, bottom of the face in pixels, one a step; null where it is not seen"
    )
    speaking: list[float | None] = Field(
        description="Probability that this person speaks, one a step; null where the face is not seen"
    )


class VideoAnalysis(_Document):
    """Shots and people of a video."""

    duration_s: float
    width: int = Field(description="Pixels of the upright picture")
    height: int
    fps: float
    frames: int
    step_s: float = Field(description="Time between two samples of `boxes`, `speaking` and `voice`")
    shots: list[TimeRange]
    people: list[AnalyzedPerson] = Field(description="In order of first appearance, from left to right")
    voice: list[float] | None = Field(
        description="Probability that anybody is heard to speak, one a step; null: the video has no usable sound"
    )
    notes: list[str] = Field(description="What was left out or could not be read")
