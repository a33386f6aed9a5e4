"""Rendering in this process, with no server around it: one engine for any number of clips."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from cli.extras import MissingExtraError
from jobs.errors import ServiceError
from retalking_client.cli.failures import CommandError
from retalking_client.cli.progress import PlainDisplay

if TYPE_CHECKING:
    from jobs.models import JobOptions
    from jobs.settings import Settings
    from retalking_core.engine import Engine
    from retalking_core.options import RenderOptions
    from retalking_core.progress import Progress
    from retalking_core.types import RenderReport


@dataclass(frozen=True)
class Rendered:
    """wall_s: from the first look at the video to the finished file, without loading the engine."""

    report: RenderReport
    wall_s: float


@dataclass(frozen=True)
class Asked:
    """What a run is asked for. picture: whose expression is taken, where the options say `image`. cache: folder in
    which the neural engine keeps what it learns of a video's face."""

    job: JobOptions
    picture: Path | None = None
    compat: str = "none"
    cache: Path | None = None

    def options(self) -> RenderOptions:
        from worker.translation import render_options

        return replace(render_options(self.job, self.picture), compat=self.compat)

    def fingerprint(self) -> str:
        """Equal for equal questions."""
        picture = sha256(self.picture.read_bytes()).hexdigest() if self.picture else ""
        return f"{self.job.model_dump_json()} {picture} {self.compat}"


class LocalRenderer:
    """An engine, loaded when the first clip needs it."""

    def __init__(self, engine: Engine, console: Console) -> None:
        self._engine, self._console, self._warm = engine, console, False

    def render(self, video: Path, audio: Path, result: Path, options: RenderOptions) -> Rendered:
        """Write `result`, whole or not at all, with a bar for each stage. Raises RetalkingError."""
        result.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=result.parent, prefix=f".{result.name}.") as folder,
            closing(open_stages(self._console)) as stages,
        ):
            if not self._warm:
                stages.begin("load")
                self._engine.warm_up()
                self._warm = True
            part = Path(folder) / result.name
            began = time.monotonic()
            report = self._engine.render(video, audio, part, options, stages.show)
            wall_s = time.monotonic() - began
            part.replace(result)
        return Rendered(report, wall_s)


def open_renderer(asked: Asked, settings: Settings, console: Console, advice: str = "") -> LocalRenderer:
    """The engine that is asked for (or what `auto` means here). Raises CommandError; advice ends its message."""
    try:
        from retalking_core.face_cache import LocalFaceCache
        from worker.engines import choose_engine, load_engines

        limits = settings.face_cache_bytes, settings.face_cache_ttl_s
        engines = load_engines(settings, LocalFaceCache(asked.cache, *limits) if asked.cache else None)
    except ImportError as error:
        raise MissingExtraError("preview", error.name) from error
    try:
        return LocalRenderer(choose_engine(asked.job.engine, settings, engines), console)
    except ServiceError as error:
        raise CommandError(error.code, f"{error.message} {advice}".rstrip()) from error


class StageDisplay(Protocol):
    def begin(self, stage: str) -> None:
        """A stage that counts nothing."""
        ...

    def show(self, told: Progress) -> None: ...

    def close(self) -> None: ...


def open_stages(console: Console) -> StageDisplay:
    return StageBars(console) if console.is_terminal else StageLines(console)


class StageBars:
    """One line a stage: name, bar, frames done, time taken, time left. A stage that counts from the start again (the
    analysis looks at the clip more than once) gets a further line."""

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
        self._open(stage, None)

    def show(self, told: Progress) -> None:
        if told.stage != self._stage:
            self._passes = 1
            self._open(told.stage, told.total or None)
        elif told.done < self._done:
            self._passes += 1
            self._open(f"{told.stage} {self._passes}", told.total or None)
        self._stage, self._done = told.stage, told.done
        self._bars.update(self._task, completed=told.done, total=told.total or None)

    def close(self) -> None:
        self._bars.stop()

    def _open(self, line: str, total: int | None) -> None:
        """The line before is over."""
        if self._bars.tasks:
            last = self._bars.tasks[-1]
            self._bars.update(last.id, completed=last.completed or 1, total=last.completed or 1)
        self._task = self._bars.add_task(line, total=total)


class StageLines:
    """One line a stage and a tenth of the whole render."""

    def __init__(self, console: Console) -> None:
        self._lines = PlainDisplay(console)

    def begin(self, stage: str) -> None:
        self._lines.show(stage, 0.0)

    def show(self, told: Progress) -> None:
        self._lines.show(told.stage, told.fraction)

    def close(self) -> None:
        self._lines.close()


def print_stage_times(console: Console, times_s: Mapping[str, float], media_s: float, wall_s: float) -> None:
    """Where the time went: seconds of each stage, its share of the whole, and how it compares with the length of the
    result. Stages run inside and beside each other, so they need not add up to the whole."""
    table = Table(title="Stages", title_justify="left", show_edge=False)
    for heading in ("stage", "seconds", "share", "x real time"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage, seconds in [*times_s.items(), ("whole render", wall_s)]:
        if stage == "whole render":
            table.add_section()
        share = f"{seconds / wall_s:.0%}" if wall_s else "-"
        table.add_row(stage, f"{seconds:.2f}", share, f"{seconds / media_s:.2f}" if media_s else "-")
    console.print(table)
