"""Entry of a render worker whose renders last as long as their seed says: `celery -A tests.faults.timed_app worker`."""

from __future__ import annotations

from jobs.settings import Settings
from tests.faults.timed_engine import TimedEngine
from worker.engines import EngineSet
from worker.render_app import build

app = build(Settings(), lambda _: EngineSet({"preview": TimedEngine()}))
