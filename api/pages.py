"""The two pages for people: the API's documentation and a plain form. Neither needs any other host."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

ASSETS_PATH = "/docs/assets"
# The page talks to this service only; a result may come from the object store, wherever that is.
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
    "media-src 'self' http: https:; img-src data:; form-action 'self'; base-uri 'none'"
)
router = APIRouter(include_in_schema=False)


@router.get("/", response_class=HTMLResponse)
async def show_start_page() -> HTMLResponse:
    page = (files("api.static") / "index.html").read_text("utf-8")
    return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})


@router.get("/docs", response_class=HTMLResponse)
async def show_docs() -> HTMLResponse:
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Retalking API",
        swagger_js_url=f"{ASSETS_PATH}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS_PATH}/swagger-ui.css",
        swagger_favicon_url="data:,",
    )


def install_pages(app: FastAPI) -> None:
    """Swagger UI comes from the wheel of fastapi-offline: FastAPI's own page loads it from a CDN."""
    app.mount(ASSETS_PATH, StaticFiles(packages=[("fastapi_offline", "static")]), name="docs-assets")
    app.include_router(router)
