"""Entry of the render workers of a soak: `celery -A bench.soak_worker worker`."""

from __future__ import annotations

from jobs.settings import Settings
from retalking_core.engine import Engine
from worker.render_app import build


def load(_: Settings) -> dict[str, Engine]:
    """Imported in the child: the parent of a render worker loads no engine."""
    from bench.soak_engine import SoakEngine

    return {"preview": SoakEngine()}


app = build(Settings(), load)
