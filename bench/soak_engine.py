"""The engine of a soak: timed copies, and the preview engine for hostile media, so that they meet real decoders."""

from __future__ import annotations

from pathlib import Path

from retalking_core.clip_plan import ClipPlan
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.options import RenderOptions
from retalking_core.progress import ProgressHook
from retalking_core.types import RenderReport
from tests.faults.timed_engine import TimedEngine

# The seed that asks for the preview engine; any other is milliseconds of work before the copy.
REAL = 888_888


class SoakEngine(TimedEngine):
    def __init__(self) -> None:
        self._preview = PreviewEngine()

    def warm_up(self) -> None:
        self._preview.warm_up()

    def render(self, clip: ClipPlan, result: Path, options: RenderOptions, progress: ProgressHook) -> RenderReport:
        render = self._preview.render if options.seed == REAL else super().render
        return render(clip, result, options, progress)
