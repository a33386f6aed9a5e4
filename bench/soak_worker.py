"""Entry of the render workers of a soak: `celery -A bench.soak_worker worker`."""

from __future__ import annotations

from jobs.settings import Settings
from retalking_core.engine import Engine
from worker.render_app import build


def load(_: Settings) -> dict[str, Engine]:
    """Timed copies; hostile media ask for the preview engine, so that they reach real decoders. Imported in the child:
    the parent of a render worker loads no engine."""
    from retalking_core.engines.preview.engine import PreviewEngine
    from tests.faults.timed_engine import TimedEngine

    return {"preview": TimedEngine(PreviewEngine())}


app = build(Settings(), load)
