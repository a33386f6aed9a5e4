"""Entry of the render worker: `celery -A worker.gpu worker`."""

from __future__ import annotations

from jobs.settings import Settings
from worker.engines import load_service_engines
from worker.render_app import build

app = build(Settings(), load_service_engines)
