"""The application. Importing builds nothing; `create_app` takes the parts that the entry file made."""

from __future__ import annotations

from importlib.metadata import version

from celery import Celery
from fastapi import FastAPI

from api import events, jobs, media, probes, results, service, uploads
from api.metrics import RequestMetrics
from api.openapi import DESCRIPTION, install_openapi
from api.pages import install_pages
from api.parts import Parts
from api.problems import install_problems
from api.tracing import Tracing
from jobs.keyring import link_secret
from jobs.objects import ObjectStore
from jobs.settings import Settings
from jobs.store import JobStore


def create_app(settings: Settings, store: JobStore, objects: ObjectStore, celery: Celery) -> FastAPI:
    app = FastAPI(
        title="Retalking",
        version=version("retalking"),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.parts = Parts(
        settings=settings,
        store=store,
        objects=objects,
        celery=celery,
        link_key=link_secret(settings),
        metrics=RequestMetrics(),
    )
    for feature in (jobs, results, media, events, uploads, service, probes):
        app.include_router(feature.router)
    app.include_router(media.signed_router)
    install_pages(app)
    install_problems(app)
    install_openapi(app)
    app.add_middleware(Tracing, metrics=app.state.parts.metrics)
    app.openapi()  # 0.3 s of work: now, and not in the event loop when the first caller asks
    return app
