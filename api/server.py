"""Entry of the API process: `uvicorn --factory api.server:app`. The environment is read here, once."""

from __future__ import annotations

import logging

from fastapi import FastAPI

from api.main import create_app
from jobs.journal import write_journal
from jobs.messages import make_celery
from jobs.opening import open_objects, open_store
from jobs.settings import Settings
from jobs.traces import start_traces


def app() -> FastAPI:
    settings = Settings()
    write_journal(settings.log_format)
    start_traces(settings, "api")
    # Its lines would hold the signatures of upload links; `api.tracing` logs every request without its query.
    logging.getLogger("uvicorn.access").disabled = True
    return create_app(settings, open_store(settings), open_objects(settings), make_celery(settings))
