"""Rendering in this process, with no server around it: one engine for any number of clips."""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from cli.extras import MissingExtraError
from cli.stage_bars import open_stages
from jobs.errors import ServiceError
from retalking_client.cli.failures import CommandError

if TYPE_CHECKING:
    from jobs.models import JobOptions
    from jobs.settings import Settings
    from retalking_core.engine import Engine
    from retalking_core.options import RenderOptions
    from retalking_core.types import RenderReport


@dataclass(frozen=True)
class Rendered:
    """wall_s: from the first look at the video to the finished file, without loading the engine."""

    report: RenderReport
    wall_s: float


@dataclass(frozen=True)
class RenderRequest:
    """What a run is asked for. picture: whose expression is taken, where the options say `image`. cache: folder in
    which the neural engine keeps what it learns of a video's face."""

    job: JobOptions
    picture: Path | None = None
    compat: str = "none"
    cache: Path | None = None

    def options(self) -> RenderOptions:
        from worker.options import render_options

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


def open_renderer(asked: RenderRequest, settings: Settings, console: Console, advice: str = "") -> LocalRenderer:
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
