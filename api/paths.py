"""Forms of a path: `/v1/jobs` and `/jobs` lead to the same endpoint, `/jobs/` too, and HEAD works wherever GET does.

Routes have the form without the version. A versioned path is matched below the root path `/v1`, so both forms run the
same code, and `Caller.base` keeps the form for the links of the answer. Probes, metrics and pages have no version.
"""

from __future__ import annotations

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

VERSION = "/v1"
# First segments of the paths of the API
VERSIONED = frozenset(
    {
        "jobs",
        "videos",
        "batches",
        "uploads",
        "webhooks",
        "engines",
        "errors",
        "quarantine",
        "keys",
        "accounts",
        "usage",
    }
)


def is_versioned(path: str) -> bool:
    """True for a route of the API. path: without the version."""
    return path.split("/", 2)[1] in VERSIONED


class PathForms:
    """Selects the root path, and drops a trailing slash, before anything else looks at the path."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            rest = path.removeprefix(VERSION)
            if rest.startswith("/") and is_versioned(rest):
                scope["root_path"] = path.removesuffix(rest)
                scope["path"] = path.removesuffix("/")
        await self.app(scope, receive, send)


class HeadAsGet:
    """Answers HEAD with the headers of GET. The endpoint stops as soon as its headers are known: an event stream would
    never end. Paths with an answer of their own to HEAD are left alone."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or scope["path"].endswith("/result"):
            await self.app(scope, receive, send)
            return
        # Ranges are for GET alone (RFC 9110, section 14.2)
        headers = [pair for pair in scope["headers"] if pair[0] != b"range"]
        inner = {**scope, "method": "GET", "headers": headers}
        with anyio.CancelScope() as body:

            async def send_head(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await send(message)
                    await send({"type": "http.response.body", "body": b""})
                    body.cancel()

            try:
                await self.app(inner, receive, send_head)
            finally:
                scope["route"] = inner.get("route")  # for the log and the metrics
