"""Entry of an API whose uploads expire after seconds, and which waits for heads as briefly: a test of it need not wait
for the minute that the setting has to last, and for the constant of the server."""

from __future__ import annotations

from fastapi import FastAPI

from api import server
from api.main import create_app
from jobs.messages import make_celery
from jobs.opening import open_objects, open_store
from jobs.settings import Settings

UPLOAD_TTL_S = 12
HEAD_S = 3.0


def app() -> FastAPI:
    settings = Settings().model_copy(update={"upload_ttl_s": UPLOAD_TTL_S})
    return create_app(settings, open_store(settings), open_objects(settings), make_celery(settings))


if __name__ == "__main__":
    server.HEAD_S = HEAD_S
    server.serve(app)
