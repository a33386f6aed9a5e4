"""The application. Importing builds nothing; `create_app` takes what `api.server` opened."""

from __future__ import annotations

from importlib.metadata import version

from celery import Celery
from fastapi import Depends, FastAPI, Security
from starlette.middleware.cors import CORSMiddleware

from api import (
    accounts,
    analyses,
    batches,
    events,
    jobs,
    media,
    operations,
    results,
    service,
    uploads,
    webhooks,
)
from api.access import authorize, authorize_admin, authorize_any, authorize_metrics
from api.dependencies import Dependencies
from api.limits import ConcurrencyLimit
from api.metrics import RequestMetrics
from api.middleware import HostGuard, ResponseHeaders, Tracing, cors_rules, own_hosts
from api.openapi import DESCRIPTION, install_openapi
from api.pages import install_pages
from api.paths import HeadAsGet, PathForms
from api.problems import install_problems, refusals
from api.strictness import check_request
from api.waiting import JobChanges
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
        submissions=ConcurrencyLimit(
            "submissions and uploads", settings.submissions_open_per_key, settings.submissions_open
        ),
        event_streams=ConcurrencyLimit("event streams", settings.event_streams_per_key, settings.event_streams),
        downloads=ConcurrencyLimit("downloads", settings.downloads_open_per_key, settings.downloads_open),
        webhook_secrets=WebhookSecrets(settings, store.webhooks.secret_state),
        changes=JobChanges(store),
    )
    _include_features(app)
    install_pages(app)
    install_problems(app)
    if not settings.require_keys:
        app.add_middleware(HostGuard, own_hosts=own_hosts(settings))
    app.add_middleware(HeadAsGet)
    app.add_middleware(ResponseHeaders)
    app.add_middleware(Tracing, metrics=app.state.parts.metrics)
    app.add_middleware(PathForms)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, **cors_rules(settings.cors_origins))
    install_openapi(app)  # last: it reads all routes
    return app


def _include_features(app: FastAPI) -> None:
    """Routers, each with the access it requires. Open: signed links, probes, the table of error codes."""
    refused = refusals("unauthorized", "forbidden", "rate_limited", "cross_site_refused", "host_not_allowed")
    unmatched = refusals("precondition_failed")
    # First, because routes are matched in order. Not strict: probes and scrapers add parameters of their own
    app.include_router(operations.router)
    for feature in (jobs, analyses, batches, results, media, events, uploads, webhooks):
        app.include_router(feature.router, dependencies=[Security(authorize)], responses=refused | unmatched)
    app.include_router(accounts.usage_router, dependencies=[Security(authorize)], responses=refused | unmatched)
    for router, access in (
        (service.router, authorize_any),
        (operations.quarantine_router, authorize_admin),
        (accounts.router, authorize_admin),
    ):
        app.include_router(router, dependencies=[Security(access)], responses=refused | unmatched)
    for router in (results.link_router, media.signed_router, uploads.link_router, service.open_router):
        app.include_router(router, dependencies=[Depends(check_request)], responses=unmatched)
    app.include_router(operations.metrics_router, dependencies=[Security(authorize_metrics)], responses=refused)
