"""Entry of the render worker: `celery -A worker.gpu worker`, or `python -m worker.gpu`, which starts sooner."""

from __future__ import annotations

import sys

from jobs.settings import Settings
from worker.engines import load_service_engines
from worker.render_app import build, work

app = build(Settings(), load_service_engines)

if __name__ == "__main__":
    sys.exit(work(app, sys.argv[1:]))
