"""The two pages for people: the API's documentation and the console. Neither needs any other host."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

ASSETS_PATH = "/docs/assets"
CONSOLE_PATH = "/console"
# The page talks to this service only, and runs nothing but the files of this folder. A clip may come from the object
# store, wherever that is; `blob:` is a file that was chosen and not sent yet.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob: http: https:; media-src 'self' blob: http: https:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
router = APIRouter(include_in_schema=False)


@router.get("/", response_class=HTMLResponse)
async def show_start_page() -> HTMLResponse:
    page = (files("api.static") / "index.html").read_text("utf-8")
    return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"})


@router.get("/docs", response_class=HTMLResponse)
async def show_docs() -> HTMLResponse:
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Retalking API",
        swagger_js_url=f"{ASSETS_PATH}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS_PATH}/swagger-ui.css",
        swagger_favicon_url="data:,",
    )


class ConsoleFiles(StaticFiles):
    """Asked for again at every load (the answer is mostly 304): after an update no old part meets a new one."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def install_pages(app: FastAPI) -> None:
    """Swagger UI comes from the wheel of fastapi-offline: FastAPI's own page loads it from a CDN."""
    app.mount(CONSOLE_PATH, ConsoleFiles(packages=[("api", "static")]), name="console")
    app.mount(ASSETS_PATH, StaticFiles(packages=[("fastapi_offline", "static")]), name="docs-assets")
    app.include_router(router)
