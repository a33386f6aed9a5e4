"""Entry of a render worker whose renders can be shared: `celery -A tests.worker.segmented_app worker`."""

from __future__ import annotations

from jobs.settings import Settings
from tests.worker.segmented_engine import SlowEngine
from worker.engines import EngineSet
from worker.render_app import build

settings = Settings()
app = build(settings, lambda told: EngineSet({"preview": SlowEngine(told.data_dir / "marks")}))
