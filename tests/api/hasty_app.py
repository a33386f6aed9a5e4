"""Entry of an API whose uploads expire after seconds; a setting can not be shorter than a minute."""

from __future__ import annotations

from fastapi import FastAPI

from api import server
from api.main import create_app
from jobs.messages import make_celery
from jobs.opening import open_objects, open_store
from jobs.settings import Settings

UPLOAD_TTL_S = 12


def app() -> FastAPI:
    settings = Settings().model_copy(update={"upload_ttl_s": UPLOAD_TTL_S})
    return create_app(settings, open_store(settings), open_objects(settings), make_celery(settings))


if __name__ == "__main__":
    server.serve(app)
