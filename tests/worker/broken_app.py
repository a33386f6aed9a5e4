"""Entry of a render worker whose engines fail to load."""

from __future__ import annotations

from jobs.settings import Settings
from retalking_core.errors import EngineUnavailableError
from worker.render_app import build


def _fail(_: Settings) -> dict:
    raise EngineUnavailableError("The face models are damaged.")


app = build(Settings(), _fail)
