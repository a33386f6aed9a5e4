"""Interface that all engines implement, and the one for engines whose renders can be split. Needs no torch."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_args, get_origin, get_type_hints, runtime_checkable

import numpy as np

from retalking_core.clip_plan import ClipPlan, LineInput, plan_clip
from retalking_core.errors import EngineFaultError, OptionUnsupportedError
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


Scene = TypeVar("Scene")
_VALUES = "values.json"


def save_analysis(path: Path, scene: object) -> None:
    """Write what an engine learned about a clip to .npz. Fields may be arrays, None, bool, int, float, str, Fraction,
    lists or tuples of numbers, further dataclasses, and tuples of dataclasses of one kind. Arrays keep their bytes, so
    a scene that was read draws what the scene that was written draws. Raises TypeError for anything else: that is a
    fault of the engine's author."""
    arrays: dict[str, np.ndarray] = {}
    values: dict[str, Any] = {}
    _flatten(scene, "", arrays, values)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_VALUES, json.dumps(values))
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def load_analysis(path: Path, kind: type[Scene]) -> Scene:
    """The scene of a file that `save_analysis` wrote. Nothing in the file is code: numpy's pickles are refused, and the
    dataclass to build is named by the reader. Raises EngineFaultError for a file that does not hold a scene of this
    kind: another version wrote it."""
    try:
        with zipfile.ZipFile(path) as archive:
            values = json.loads(archive.read(_VALUES))

            def array_of(name: str) -> np.ndarray:
                with archive.open(f"{name}.npy") as entry:
                    return np.lib.format.read_array(entry, allow_pickle=False)

            analysis: Scene = _build(kind, "", values, array_of)
            return analysis
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise EngineFaultError("The analysis of the clip could not be read back.") from error


def _flatten(scene: Any, prefix: str, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> None:
    for entry in dataclasses.fields(scene):
        name, value = prefix + entry.name, getattr(scene, entry.name)
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif isinstance(value, Fraction):
            values[name] = [value.numerator, value.denominator]
        elif dataclasses.is_dataclass(value):
            _flatten(value, f"{name}.", arrays, values)
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            values[name] = len(value)
            for number, each in enumerate(value):
                _flatten(each, f"{name}.{number}.", arrays, values)
        elif value is None or isinstance(value, bool | int | float | str | list | tuple):
            values[name] = value
        elif isinstance(value, np.generic):
            values[name] = value.item()
        else:
            raise TypeError(f"{name} is a {type(value).__name__}: a scene holds arrays and plain values only")


def _build(kind: Any, prefix: str, values: dict[str, Any], array_of: Callable[[str], np.ndarray]) -> Any:
    hints = get_type_hints(kind)
    found = {}
    for entry in dataclasses.fields(kind):
        name, hint = prefix + entry.name, hints[entry.name]
        item = get_args(hint)[0] if get_origin(hint) is tuple else None
        if dataclasses.is_dataclass(hint):
            found[entry.name] = _build(hint, f"{name}.", values, array_of)
        elif dataclasses.is_dataclass(item):
            found[entry.name] = tuple(_build(item, f"{name}.{k}.", values, array_of) for k in range(values[name]))
        elif name not in values:
            found[entry.name] = array_of(name)
        else:
            found[entry.name] = _plain(values[name], hint)
    return kind(**found)


def _plain(value: Any, hint: Any) -> Any:
    """JSON has neither fractions nor tuples."""
    if hint is Fraction:
        return Fraction(*value)
    if isinstance(value, list) and getattr(hint, "__origin__", None) is tuple:
        return tuple(value)
    if isinstance(value, list):
        return [tuple(each) if isinstance(each, list) else each for each in value]
    return value
