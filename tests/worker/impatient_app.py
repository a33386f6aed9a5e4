"""Entry of a render worker with the scripted engine, whose hard time limit comes a second after the soft one."""

from __future__ import annotations

from tests.worker.scripted_app import app, settings

app.conf.task_time_limit = settings.render_limit_s + 1
