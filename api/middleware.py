"""ASGI middleware: request id, count and latency, the last error handler, response headers, and the host check."""

from __future__ import annotations

import ipaddress
import logging
import re
import time
import uuid
from collections.abc import Iterable
from urllib.parse import quote, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import RequestMetrics
from api.problems import problem_response
from jobs.errors import is_thread_shortage
from jobs.journal import about
from jobs.settings import Settings
from jobs.traces import span

logger = logging.getLogger("retalking.api")

REQUEST_ID_HEADER = "X-Request-Id"
# A caller's id goes into our logs: no spaces, quotes or control characters.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
# nginx's number for "the client went away"; no response was sent.
CLIENT_GONE = 499


class Tracing:
    """ASGI middleware. Pure ASGI, because Starlette's BaseHTTPMiddleware would buffer between us and the stream."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        request.state.request_id = accepted_id(request.headers.get(REQUEST_ID_HEADER))
        started_s = time.perf_counter()
        status = CLIENT_GONE

        async def send_traced(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request.state.request_id
            await send(message)

        parent = request.headers.get("traceparent", "")
        try:
            with (
                about(request=request.state.request_id),
                span(scope["method"], kind="server", parent=parent, request=request.state.request_id) as opened,
            ):
                await self.app(scope, receive, send_traced)
                if opened is not None:
                    opened.update_name(f"{scope['method']} {_route_of(scope)}")
                    opened.set_attribute("http.response.status_code", status)
        except ClientDisconnect:
            logger.info("The client left request %s before it was whole", request.state.request_id)
        except Exception as fault:
            code, detail = _describe(fault)
            if code == "internal_error":
                logger.exception("Request %s broke", request.state.request_id)
            else:
                logger.error("Request %s refused: %s", request.state.request_id, code)
            if status != CLIENT_GONE:
                raise  # The response has begun: only closing the connection tells the caller.
            await problem_response(request, code, detail)(scope, receive, send_traced)
        finally:
            self._record(scope, request.state.request_id, status, time.perf_counter() - started_s)

    def _record(self, scope: Scope, request_id: str, status: int, duration_s: float) -> None:
        with about(request=request_id):
            logger.info("%s %s %d %.0f ms", scope["method"], quote(scope["path"]), status, duration_s * 1000)
        route = _route_of(scope)
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self.metrics.requests.labels(route, method, str(status)).inc()
        self.metrics.latency_s.labels(route, method).observe(duration_s)


def _describe(fault: Exception) -> tuple[str, str]:
    """Code and sentence for what no handler knew."""
    if is_thread_shortage(fault):
        return "threads_exhausted", "This process can start no more threads now."
    return "internal_error", "Something broke here that should not. It is logged under the request id."


def _route_of(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", None) or "unmatched"


# Labels must not grow with what callers invent.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})


def accepted_id(value: str | None) -> str:
    """The caller's request id where it is safe to log, else a new one."""
    return value if value and _REQUEST_ID.fullmatch(value) else f"req_{uuid.uuid4().hex}"


# Answers that are no pages: nothing in them may run, load or be framed, whatever a browser takes them for
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    # Addresses hold job ids, and links their signatures: no other site is told them
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Recording speech is the console's own; nothing else is used
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=(), payment=(), usb=()",
}
_UNLESS_SET = {
    "Content-Security-Policy": DATA_POLICY,
    # Jobs are the caller's business, and their state changes; files and pages say otherwise themselves
    "Cache-Control": "no-store",
    # No page of another site shows or plays them; signed links say otherwise, they are made to be handed on
    "Cross-Origin-Resource-Policy": "same-origin",
}
EMBEDDABLE = {"Cross-Origin-Resource-Policy": "cross-origin"}


class AnswerHeaders:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _ALWAYS.items():
                    headers[name] = value
                for name, value in (_UNLESS_SET | getattr(request.state, "headers", {})).items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


# They tell nothing about anybody, and orchestrators ask for them by whatever address a container has.
_PROBES = frozenset({"/healthz", "/readyz"})


class HostGuard:
    """ASGI middleware: refuses names that are not the service's own. own_hosts: beside those of loopback."""

    def __init__(self, app: ASGIApp, own_hosts: Iterable[str]) -> None:
        self.app = app
        self._own = frozenset(host.lower() for host in own_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _PROBES or self._is_own(_host_of(Request(scope))):
            await self.app(scope, receive, send)
            return
        detail = (
            "Without API keys the service answers only under the names of this machine and those that "
            "RETALKING_PUBLIC_URL and RETALKING_PUBLIC_HOSTS name."
        )
        await problem_response(Request(scope), "host_not_allowed", detail)(scope, receive, send)

    def _is_own(self, host: str | None) -> bool:
        return host is not None and (host in self._own or _is_loopback(host))


def own_hosts(settings: Settings) -> list[str]:
    """Names beside those of loopback under which callers may reach the service."""
    public = urlsplit(settings.public_url).hostname
    return [*settings.public_hosts, *([public] if public else [])]


def _host_of(request: Request) -> str | None:
    """The name asked for, without its port; None where there is no single one."""
    given = request.headers.getlist("host")
    try:
        return urlsplit(f"//{given[0]}").hostname if len(given) == 1 else None
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
