"""Rendering in this process, without a server: one engine for any number of clips, with progress on the terminal;
and the file of `retalking run --segments`: who says what when.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from cli.extras import MissingExtraError
from jobs.errors import ServiceError
from retalking_client.cli.common import EXIT_USAGE, CommandError
from retalking_client.cli.progress import PlainDisplay
from retalking_core.vocabulary.containers import PICTURE_SUFFIXES
from retalking_core.vocabulary.options import EXPRESSION_TEMPLATES, FaceChoice, UpperFace

if TYPE_CHECKING:
    from jobs.settings import Settings
    from retalking_core.engine import Engine
    from retalking_core.evaluation.metrics import LineValue
    from retalking_core.lines import LineInput
    from retalking_core.media.limits import MediaLimits
    from retalking_core.options import Compat, RenderOptions
    from retalking_core.progress import Progress
    from retalking_core.types import RenderReport
    from retalking_core.vocabulary.options import JobOptions


MAX_FILE_BYTES = 1 << 20


class FileSegment(BaseModel):
    """One entry. Paths count from the folder of the file; times are seconds on the clock of the video."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    audio: Path
    start_s: float = Field(0.0, allow_inf_nan=False)
    end_s: float | None = Field(None, allow_inf_nan=False)
    audio_offset_s: float = Field(0.0, allow_inf_nan=False)
    face: FaceChoice | None = None
    expression: str | None = None
    upper_face: UpperFace | None = None

    def line(self, folder: Path) -> LineInput:
        from retalking_core.lines import LineInput

        return LineInput(
            audio=_existing(folder / self.audio),
            start_s=self.start_s,
            end_s=self.end_s,
            audio_offset_s=self.audio_offset_s,
            face=self.face,
            expression=None if self.expression is None else _expression(folder, self.expression),
            upper_face=self.upper_face,
        )


def read_segments(path: Path) -> list[LineInput]:
    """The lines of a JSON file. Raises CommandError that names the bad entry."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CommandError("value_out_of_bounds", f"{path} is larger than {MAX_FILE_BYTES} bytes.", EXIT_USAGE)
        segments = TypeAdapter(list[FileSegment]).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"][:3]) or "the file"
        raise CommandError("invalid_request", f"{path}: {place}: {first['msg']}.", EXIT_USAGE) from error
    if not segments:
        raise CommandError("invalid_request", f"{path} lists no segment.", EXIT_USAGE)
    return [segment.line(path.parent) for segment in segments]


def _expression(folder: Path, value: str) -> str:
    if value in EXPRESSION_TEMPLATES:
        return value
    if Path(value).suffix.lower() not in PICTURE_SUFFIXES:
        known = ", ".join(EXPRESSION_TEMPLATES)
        raise CommandError("invalid_option", f"expression is {known}, or a picture, not {value}.", EXIT_USAGE)
    return str(_existing(folder / value))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise CommandError("file_not_found", f"There is no file {path}.", EXIT_USAGE)
    return path


@dataclass(frozen=True)
class Rendered:
    """A finished render."""

    report: RenderReport
    wall_s: float
    """Elapsed seconds of the render, without loading the engine."""
    follows: Sequence[LineValue] = ()
    """`mouth_speech_correlation` of each line, where the caller gave lines."""


@dataclass(frozen=True)
class RenderRequest:
    """What to render with."""

    job: JobOptions
    picture: Path | None = None
    """Picture whose expression is used, if the options say `image`."""
    compat: Compat = "none"
    cache: Path | None = None
    """Folder of the neural engine's face cache."""

    def options(self) -> RenderOptions:
        from worker.translation import render_options

        return replace(render_options(self.job, self.picture), compat=self.compat)

    def fingerprint(self) -> str:
        """Equal for requests that give equal results."""
        picture = sha256(self.picture.read_bytes()).hexdigest() if self.picture else ""
        return f"{self.job.model_dump_json()} {picture} {self.compat}"


class LocalRenderer:
    """An engine, loaded when the first clip needs it."""

    def __init__(self, engine: Engine, limits: MediaLimits, console: Console) -> None:
        self._engine, self._limits, self._console, self._warm = engine, limits, console, False

    def render(self, video: Path, audio: Path | Sequence[LineInput], result: Path, options: RenderOptions) -> Rendered:
        """Write `result` atomically, with a progress bar for each stage. Raises RetalkingError."""
        from retalking_core.engine import settled_render
        from retalking_core.evaluation.measurement import Measurement
        from retalking_core.evaluation.metrics import measure_all

        result.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=result.parent, prefix=f".{result.name}.") as folder,
            closing(open_stages(self._console)) as stages,
        ):
            if not self._warm:
                stages.begin("load")
                self._engine.warm_up()
                self._warm = True
            unfinished = Path(folder) / result.name
            started_s = time.monotonic()
            given = (self._engine.capabilities, video, audio, options, stages.show, self._limits)
            with settled_render(*given) as settled:
                clip = settled.clip
                report = clip.complete(self._engine.render(clip, unfinished, settled.options, settled.progress))
                wall_s = time.monotonic() - started_s
                follows: Sequence[LineValue] = ()
                if clip.has_lines:
                    measured = Measurement(
                        unfinished,
                        clip.speech,
                        report,
                        self._limits,
                        progress=stages.show,
                        speakers=clip.speakers,
                    )
                    (correlation,) = measure_all(measured, ["mouth_speech_correlation"])
                    follows = correlation.lines
            unfinished.replace(result)
        return Rendered(report, wall_s, follows)


def open_renderer(
    request: RenderRequest, settings: Settings, console: Console, advice: str = "", *, once: bool = False
) -> LocalRenderer:
    """Load the requested engine (or the best one for `auto`). once: for a single clip, so that kernels which are
    compiled in the background would come too late. Raises CommandError; advice ends its message."""
    if once and settings.kernels == "background":
        settings = settings.model_copy(update={"kernels": "plain"})
    try:
        from retalking_core.face_cache import LocalFaceCache
        from worker.engines import choose_engine, load_engines, media_limits

        limits = settings.face_cache_bytes, settings.face_cache_ttl_s
        engines = load_engines(settings, LocalFaceCache(request.cache, *limits) if request.cache else None)
    except ImportError as error:
        raise MissingExtraError("preview", error.name) from error
    try:
        return LocalRenderer(choose_engine(request.job.engine, settings, engines), media_limits(settings), console)
    except ServiceError as error:
        raise CommandError(error.code, f"{error.message} {advice}".rstrip()) from error


def open_stages(console: Console) -> StageBars | StageLines:
    """The stages of a render: progress bars on a terminal, plain lines elsewhere."""
    return StageBars(console) if console.is_terminal else StageLines(console)


class StageBars:
    """One line per stage: name, bar, frames done, elapsed and remaining time. A stage that starts again (the analysis
    reads the clip more than once) gets another line."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self._bars.start()
        self._stage, self._done, self._passes = "", 0, 0

    def begin(self, stage: str) -> None:
        """A stage without a count of frames."""
        self._open(stage, None)

    def show(self, progress: Progress) -> None:
        stage, total = progress.stage, progress.total or None
        if stage != self._stage:
            self._passes = 1
            self._open(stage, total)
        elif progress.done < self._done:
            self._passes += 1
            self._open(f"{stage} {self._passes}", total)
        self._stage, self._done = stage, progress.done
        self._bars.update(self._task, completed=progress.done, total=total)

    def close(self) -> None:
        self._bars.stop()

    def _open(self, line: str, total: int | None) -> None:
        """Start a line, and complete the one before."""
        if self._bars.tasks:
            last = self._bars.tasks[-1]
            self._bars.update(last.id, completed=last.completed or 1, total=last.completed or 1)
        self._task = self._bars.add_task(line, total=total)


class StageLines:
    """One line at each change of stage, and for every tenth of the render."""

    def __init__(self, console: Console) -> None:
        self._lines = PlainDisplay(console)

    def begin(self, stage: str) -> None:
        self._lines.show(stage, 0.0)

    def show(self, progress: Progress) -> None:
        self._lines.show(progress.stage, progress.fraction)

    def close(self) -> None:
        self._lines.close()


def print_stage_times(console: Console, times_s: Mapping[str, float], media_s: float, wall_s: float) -> None:
    """Seconds of each stage, its share of the render, and its ratio to the length of the result.

    Stages overlap, so they need not add up to the whole.
    """
    table = Table(title="Stages", title_justify="left", show_edge=False)
    for heading in ("stage", "seconds", "share", "x real time"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage, seconds in [*times_s.items(), ("whole render", wall_s)]:
        if stage == "whole render":
            table.add_section()
        share = f"{seconds / wall_s:.0%}" if wall_s else "-"
        table.add_row(stage, f"{seconds:.2f}", share, f"{seconds / media_s:.2f}" if media_s else "-")
    console.print(table)
