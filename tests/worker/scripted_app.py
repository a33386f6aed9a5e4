"""Entry of a render worker with the scripted engine: `celery -A tests.worker.scripted_app worker`."""

from __future__ import annotations

from jobs.settings import Settings
from tests.worker.scripted_engine import ScriptedEngine
from worker.engines import EngineSet
from worker.render_app import build

settings = Settings()
app = build(settings, lambda told: EngineSet({"preview": ScriptedEngine(told.data_dir / "marks")}))
