"""Entry of the render workers of a soak: `celery -A bench.soak_worker worker`."""

from __future__ import annotations

from jobs.settings import Settings
from worker.engines import EngineSet
from worker.render_app import build


def load(_: Settings) -> EngineSet:
    """Timed copies; hostile media ask for the preview engine, so that they reach real decoders. Imported in the child:
    the parent of a render worker loads no engine."""
    from retalking_core.engines.preview.engine import PreviewEngine
    from tests.faults.timed_engine import TimedEngine

    return EngineSet({"preview": TimedEngine(PreviewEngine())})


app = build(Settings(), load)
