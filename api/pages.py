"""The two HTML pages: API documentation and console. Neither loads anything from another host."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

ASSETS_PATH = "/docs/assets"
CONSOLE_PATH = "/console"
_INLINE = {kind: re.compile(rf"<{kind}[^>]*>(.*?)</{kind}>", re.DOTALL) for kind in ("script", "style")}
router = APIRouter(include_in_schema=False)


@router.get("/", response_class=HTMLResponse)
async def show_start_page() -> HTMLResponse:
    page = (files("api") / "static" / "index.html").read_text("utf-8")
    return HTMLResponse(page, headers=page_headers(page))


@router.get("/docs", response_class=HTMLResponse)
async def show_docs() -> HTMLResponse:
    response = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Retalking API",
        swagger_js_url=f"{ASSETS_PATH}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS_PATH}/swagger-ui.css",
        swagger_favicon_url="data:,",
    )
    page = bytes(response.body).decode()
    return HTMLResponse(page, headers=page_headers(page))


def page_headers(page: str) -> dict[str, str]:
    """A content security policy that allows scripts and styles of this service only; inline ones by hash, so that
    injected ones do not run. Media may come from any host, because the object store can be anywhere; `blob:` is a local
    file before it is sent."""
    allowed = {kind: " ".join(["'self'", *_hashes(page, kind)]) for kind in _INLINE}
    policy = (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; connect-src 'self'; "
        "media-src 'self' blob: http: https:; img-src 'self' data: blob: http: https:; font-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}


def _hashes(page: str, kind: str) -> list[str]:
    digests = (hashlib.sha256(block.encode()).digest() for block in _INLINE[kind].findall(page) if block.strip())
    return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]


class ConsoleFiles(StaticFiles):
    """Revalidated at every load (mostly 304), so that modules of different versions never mix after an update."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def install_pages(app: FastAPI) -> None:
    """Swagger UI comes from the package fastapi-offline, because FastAPI's own page loads it from a CDN."""
    app.mount(CONSOLE_PATH, ConsoleFiles(packages=[("api", "static")]), name="console")
    app.mount(ASSETS_PATH, StaticFiles(packages=[("fastapi_offline", "static")]), name="docs-assets")
    app.include_router(router)
