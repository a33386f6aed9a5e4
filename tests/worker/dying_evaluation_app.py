"""Entry of a render worker whose process kills itself once between a job's success and its evaluation."""

from __future__ import annotations

import os
import signal
from typing import Any

from jobs.settings import Settings
from tests.worker.scripted_engine import ScriptedEngine
from worker import runner
from worker.engines import EngineSet
from worker.render_app import build

settings = Settings()
app = build(settings, lambda told: EngineSet({"preview": ScriptedEngine(told.data_dir / "marks")}))
evaluate = runner.evaluate_after


def die_once(*args: Any) -> None:
    mark = settings.data_dir / "marks" / "died"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    evaluate(*args)


runner.evaluate_after = die_once
