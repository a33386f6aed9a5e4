"""Interface that all engines implement, and the one for engines whose renders can be split. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from retalking_core.clip_plan import ClipPlan, LineInput, plan_clip
from retalking_core.errors import OptionUnsupportedError
from retalking_core.face_choice import SettledRender, settle_faces
from retalking_core.media.limits import DEFAULT_LIMITS, MediaLimits
from retalking_core.notes import Note
from retalking_core.options import RenderOptions
from retalking_core.progress import ProgressHook
from retalking_core.types import RenderReport
from retalking_core.vocabulary.engines import EngineCapabilities
from retalking_core.vocabulary.options import refused_options

__all__ = [
    "DrawingReport",
    "Engine",
    "EngineCapabilities",
    "SegmentedEngine",
    "refuse_lines",
    "refuse_unsupported",
    "render_files",
    "settled_render",
    "sum_of_times",
]


class Engine(Protocol):
    """A video and a speech track in, a lip-synced video out. Loaded once a process; not safe for parallel renders."""

    capabilities: EngineCapabilities

    def warm_up(self) -> None:
        """Load what the first render would otherwise wait for."""
        ...

    def render(self, clip: ClipPlan, result: Path, options: RenderOptions, progress: ProgressHook) -> RenderReport:
        """Write `result`: the frames of the clip's timeline, and its sound. Raises a `RetalkingError`; leaves no
        partial file behind when it does."""
        ...


@dataclass(frozen=True)
class DrawingReport:
    """What drawing a part of a clip took, in seconds by stage, and what there is to say about it."""

    stage_times_s: dict[str, float] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)


@runtime_checkable
class SegmentedEngine(Engine, Protocol):
    """analyze_clip, then render_segment for each of `media.segments.plan_segments`, then join_clip give the pictures
    and the sound that render() gives. The files between them may be written and read by different processes of the
    same version."""

    def analyze_clip(
        self, clip: ClipPlan, scene: Path, options: RenderOptions, progress: ProgressHook
    ) -> DrawingReport:
        """Write to `scene` all that drawing and joining need. Raises as render() does."""
        ...

    def render_segment(
        self,
        scene: Path,
        video: Path,
        segment: range,
        result: Path,
        options: RenderOptions,
        progress: ProgressHook,
    ) -> DrawingReport:
        """Write the output frames `segment` to `result`; progress runs from 0 to 1 over them alone. Raises a
        `RetalkingError`; leaves no partial file behind when it does."""
        ...

    def join_clip(
        self,
        clip: ClipPlan,
        scene: Path,
        parts: Sequence[Path],
        result: Path,
        options: RenderOptions,
        drawn: Sequence[DrawingReport],
        progress: ProgressHook,
    ) -> RenderReport:
        """Write `result` from the segments' files, in order, and the speech. drawn: reports of analysis and
        segments. progress runs from 0 to 1 over the joining alone."""
        ...


def refuse_unsupported(
    options: RenderOptions, capabilities: EngineCapabilities, *, has_original_arithmetic: bool = False
) -> None:
    """For an engine to call before it works. has_original_arithmetic: `compat` is honored, by the neural engine alone.

    Raises: OptionUnsupportedError, naming the first option that the capabilities exclude.
    """
    unsupported = {**({} if has_original_arithmetic else {"compat": ()}), **capabilities.unsupported_options}
    refused = refused_options(options, RenderOptions(), unsupported)
    for option, value in refused.items():
        raise OptionUnsupportedError(
            f"The engine {capabilities.name} cannot honor {option}={value}; leave it out, or choose another engine.",
            option=option,
        )


def refuse_lines(clip: ClipPlan, options: RenderOptions, capabilities: EngineCapabilities) -> None:
    """Before an engine is given a clip. Raises OptionUnsupportedError for lines, and looks of lines, that it does not
    draw."""
    if not clip.has_lines:
        return
    for speaker in clip.speakers:
        asked = replace(options, compat="none", expression=speaker.expression, upper_face=speaker.upper_face)
        refuse_unsupported(asked, capabilities)
    if not capabilities.draws_lines:
        raise OptionUnsupportedError(
            f"The engine {capabilities.name} draws one face through the whole clip and no segments; choose another "
            "engine.",
            option="segments",
        )


def sum_of_times(drawn: Sequence[DrawingReport]) -> dict[str, float]:
    """Seconds by stage over all workers: more than the clock shows, since they ran side by side."""
    total: dict[str, float] = {}
    for report in drawn:
        for stage, seconds in report.stage_times_s.items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total


def render_files(
    engine: Engine,
    video: Path,
    audio: Path | Sequence[LineInput],
    result: Path,
    options: RenderOptions,
    progress: ProgressHook,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> RenderReport:
    """Plan the clip and render it with one engine. audio: see `plan_clip`. Raises the errors of `settled_render` and
    `Engine.render`."""
    with settled_render(engine.capabilities, video, audio, options, progress, limits) as settled:
        return settled.clip.complete(engine.render(settled.clip, result, settled.options, settled.progress))


@contextmanager
def settled_render(
    capabilities: EngineCapabilities,
    video: Path,
    audio: Path | Sequence[LineInput],
    options: RenderOptions,
    progress: ProgressHook,
    limits: MediaLimits,
) -> Iterator[SettledRender]:
    """What an engine with these capabilities is given for a clip, whose files are open inside the block. Raises the
    errors of `plan_clip`, `refuse_lines` and `settle_faces`."""
    with plan_clip(video, audio, options, limits) as clip:
        refuse_lines(clip, options, capabilities)
        yield settle_faces(clip, options, limits, progress)
