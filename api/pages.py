"""The two pages for people: the API's documentation and the console. Neither needs any other host."""

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
    page = (files("api.static") / "index.html").read_text("utf-8")
    return HTMLResponse(page, headers=page_headers(page))


@router.get("/docs", response_class=HTMLResponse)
async def show_docs() -> HTMLResponse:
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Retalking API",
        swagger_js_url=f"{ASSETS_PATH}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS_PATH}/swagger-ui.css",
        swagger_favicon_url="data:,",
    ).body.decode()
    return HTMLResponse(page, headers=page_headers(page))


def page_headers(page: str) -> dict[str, str]:
    """Scripts and styles of this service only; what stands in the page itself is allowed by its hash, so that nothing
    that finds its way into the page later runs. A clip may come from the object store, wherever that is; `blob:` is a
    file that was chosen and not sent yet."""
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
