"""Entry of a render worker that copies its input: what is left is what the service itself costs."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

from jobs.settings import Settings
from retalking_core.clip_plan import ClipPlan
from retalking_core.engine import EngineCapabilities
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ProgressHook
from retalking_core.types import RenderReport
from worker.engines import EngineSet
from worker.render_app import build


class StubEngine:
    """The result is the input video, byte for byte."""

    capabilities = EngineCapabilities(
        name="preview", version="stub", device="none", description="Copies its input.", unsupported_options={}
    )

    def warm_up(self) -> None:
        """Nothing to load."""

    def render(self, clip: ClipPlan, result: Path, options: RenderOptions, progress: ProgressHook) -> RenderReport:
        shutil.copyfile(clip.video, result)
        progress(Progress("synthesize", 1.0, 1, 1))
        return RenderReport(
            engine="preview",
            engine_version="stub",
            device="none",
            frames=1,
            fps=Fraction(25),
            duration_s=0.04,
            width=2,
            height=2,
            face_coverage=1.0,
            faceless_ranges_s=[],
            stage_times_s={},
        )


app = build(Settings(), lambda _: EngineSet({"preview": StubEngine()}))
