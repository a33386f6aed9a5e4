"""The application. Importing builds nothing; `create_app` takes the parts that the entry file made."""

from __future__ import annotations

from importlib.metadata import version

from celery import Celery
from fastapi import APIRouter, FastAPI, Security

from api import events, jobs, media, probes, quarantine, results, service, uploads, webhooks
from api.access import authorise, authorise_admin, authorise_any, authorise_metrics
from api.browsers import HostGuard, own_hosts
from api.dependencies import Dependencies
from api.headers import AnswerHeaders
from api.metrics import RequestMetrics
from api.openapi import DESCRIPTION, install_openapi
from api.pages import install_pages
from api.places import Places
from api.problems import install_problems, refusals
from api.tracing import Tracing
from jobs.objects import ObjectStore
from jobs.opening import watched_space
from jobs.settings import Settings
from jobs.signing import WebhookSecrets, link_secret
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
    app.state.parts = Dependencies(
        settings=settings,
        store=store,
        objects=objects,
        celery=celery,
        link_key=link_secret(settings),
        metrics=RequestMetrics(),
        space=watched_space(settings, store),
        submissions=Places("submissions and uploads", settings.submissions_open_per_key, settings.submissions_open),
        event_streams=Places("event streams", settings.event_streams_per_key, settings.event_streams),
        downloads=Places("downloads", settings.downloads_open_per_key, settings.downloads_open),
        webhook_secrets=WebhookSecrets(settings, store.webhooks.secret_state),
    )
    _include_features(app)
    install_pages(app)
    install_problems(app)
    install_openapi(app)
    if not settings.require_keys:
        app.add_middleware(HostGuard, own_hosts=own_hosts(settings))
    app.add_middleware(AnswerHeaders)
    app.add_middleware(Tracing, metrics=app.state.parts.metrics)
    app.openapi()  # 0.3 s of work: now, and not in the event loop when the first caller asks
    return app


def _include_features(app: FastAPI) -> None:
    """What needs which key. The open rest: links that carry their own signature, probes, the table of errors."""
    refused = refusals("unauthorized", "forbidden", "rate_limited", "cross_site_refused", "host_not_allowed")
    for feature in (jobs, results, media, events, uploads, webhooks):
        app.include_router(feature.router, dependencies=[Security(authorise)], responses=refused)
    app.include_router(service.router, dependencies=[Security(authorise_any)], responses=refused)
    app.include_router(quarantine.router, dependencies=[Security(authorise_admin)], responses=refused)
    app.include_router(probes.metrics_router, dependencies=[Security(authorise_metrics)], responses=refused)
    open_routers: list[APIRouter] = [
        results.link_router,
        media.signed_router,
        uploads.link_router,
        service.open_router,
        probes.router,
    ]
    for router in open_routers:
        app.include_router(router)
