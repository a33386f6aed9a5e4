"""Rendering in this process, with no server around it: one engine for any number of clips."""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from cli.failures import CommandError, MissingExtraError
from cli.stage_bars import open_stages
from jobs.errors import ServiceError

if TYPE_CHECKING:
    from jobs.settings import Settings
    from retalking_core.engine import Engine
    from retalking_core.options import RenderOptions
    from retalking_core.types import RenderReport


@dataclass(frozen=True)
class Rendered:
    """wall_s: from the first look at the video to the finished file, without loading the engine."""

    report: RenderReport
    wall_s: float


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


def open_renderer(engine_name: str, settings: Settings, console: Console, advice: str = "") -> LocalRenderer:
    """The engine of this name (or what `auto` means here). Raises CommandError; advice ends its message."""
    try:
        from worker.engines import choose_engine, load_engines

        engines = load_engines(settings)
    except ImportError as error:
        raise MissingExtraError("preview", error.name) from error
    try:
        return LocalRenderer(choose_engine(engine_name, settings, engines), console)
    except ServiceError as error:
        raise CommandError(error.code, f"{error.message} {advice}".rstrip()) from error
