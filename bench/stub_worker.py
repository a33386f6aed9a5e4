"""Entry of a render worker that renders nothing: what is left is what the service itself costs."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

from jobs.settings import Settings
from retalking_core.engine import EngineCapabilities
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ProgressHook
from retalking_core.types import RenderReport
from worker import runner
from worker.render_app import build


class StubEngine:
    """The result is the input video, byte for byte."""

    capabilities = EngineCapabilities(
        name="preview", version="stub", device="none", description="Copies its input.", unsupported_options={}
    )

    def warm_up(self) -> None:
        """Nothing to load. The inputs of the load run are no media, so the look into them is left out as well."""
        runner.probe_video = runner.probe_audio = lambda *_: None

    def render(
        self, video: Path, audio: Path, result: Path, options: RenderOptions, progress: ProgressHook
    ) -> RenderReport:
        shutil.copyfile(video, result)
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


app = build(Settings(), lambda _: {"preview": StubEngine()})
