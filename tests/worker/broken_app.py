"""Entry of a render worker whose engines fail to load for a reason that nobody expects."""

from __future__ import annotations

from jobs.settings import Settings
from worker.engines import EngineSet
from worker.render_app import build


def _fail(_: Settings) -> EngineSet:
    raise RuntimeError("CUDA error: out of memory")


app = build(Settings(), _fail)
