"""An engine that works as long as its seed says, then copies.

seed: milliseconds of work before the copy; KILLER: the render kills its process, every time; GLUTTON: it takes memory
until it gets no more; REAL: a render by the engine that was passed.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from retalking_core.clip_plan import ClipPlan
from retalking_core.engine import Engine, EngineCapabilities
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ProgressHook
from retalking_core.types import RenderReport
from tests.worker.scripted_engine import remux

KILLER = 666_666
GLUTTON = 777_777
REAL = 888_888
BATCH_S = 0.02


class TimedEngine:
    capabilities = EngineCapabilities(
        name="preview", version="timed", device="cpu", description="Copies its input.", unsupported_options={}
    )

    def __init__(self, real: Engine | None = None) -> None:
        self._real = real

    def warm_up(self) -> None:
        if self._real is not None:
            self._real.warm_up()

    def render(self, clip: ClipPlan, result: Path, options: RenderOptions, progress: ProgressHook) -> RenderReport:
        if options.seed == REAL and self._real is not None:
            return self._real.render(clip, result, options, progress)
        progress(Progress("analyze", 0.0))
        if options.seed == KILLER:
            os.kill(os.getpid(), signal.SIGKILL)
        if options.seed == GLUTTON:
            taken = []
            while True:
                taken.append(b"x" * 50_000_000)
        began, length_s = time.monotonic(), options.seed / 1000
        while (spent_s := time.monotonic() - began) < length_s:
            time.sleep(BATCH_S)
            progress(Progress("synthesize", min(1.0, spent_s / length_s), int(spent_s / BATCH_S)))
        report = remux(clip.video, next(iter(clip.files)), result)
        progress(Progress("synthesize", 1.0, report.frames, report.frames))
        return report
