"""Names of engines, which of them `auto` means, and what an engine says that it can do; the stages of a job."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

ENTRY_POINT_GROUP = "retalking.engines"
AUTO = "auto"
ENGINE_NAME = r"^[a-z][a-z0-9_]{0,39}$"
EngineChoice = Literal["auto", "videoretalking", "preview"] | Annotated[str, StringConstraints(pattern=ENGINE_NAME)]

PREFERENCE = ("videoretalking", "preview")
"""Engines that come with Retalking, best first: what `auto` means where the deployment does not name one."""

KernelState = Literal["plain", "mixed", "compiled"]
"""What the networks of an engine run: torch's own kernels, compiled ones, or some networks these and some those."""

MODELS = {"video_retalking": "videoretalking"}
"""Name of a published model -> the engine that implements it."""


class EngineInfo(BaseModel):
    """An engine that a worker offers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: str
    device: str
    description: str
    unsupported_options: dict[str, tuple[str, ...]] = Field(
        description="Option -> values that it refuses; []: all except the default"
    )
    synthetic_weights: bool = False
    draws_lines: bool = Field(False, description="Whether it renders `segments`: several faces, each for a time")


class EngineCapabilities(EngineInfo):
    """What an engine is and can do.

    Its public part is `EngineInfo`; the fields added here stay between workers.

    Attributes:
        fingerprint: Of what the engine computes with (weights, precision). Two engines of one version and fingerprint
            draw the same.
        face_margin: With default options, pixels outside the box of the face's 68 landmarks, grown on each side by
            this share of its size, are those of the source. None: the engine may change the whole frame.
    """

    fingerprint: str = ""
    face_margin: float | None = Field(None, ge=0)

    def public(self) -> EngineInfo:
        return EngineInfo(**{name: getattr(self, name) for name in EngineInfo.model_fields})


def preferred_engine(wanted: str, offered: Collection[str]) -> str | None:
    """The engine that `wanted` means where these are offered; None where it is not offered.

    `auto` is the first of `PREFERENCE`, then the first other engine in alphabetical order. A named engine is never
    replaced by another.
    """
    if wanted != AUTO:
        return wanted if wanted in offered else None
    return next((name for name in (*PREFERENCE, *sorted(offered)) if name in offered), None)


JobStage = Literal["fetch", "analyze", "synthesize", "evaluate", "publish"]
"""Stages of a job, in order. An engine reports `analyze` and `synthesize`, the evaluation `evaluate`."""

JOB_STAGES: tuple[JobStage, ...] = get_args(JobStage)
