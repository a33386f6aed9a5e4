"""ASGI middleware: request id, count and latency, the last error handler, response headers, and the host check."""

from __future__ import annotations

import ipaddress
import logging
import re
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import RequestMetrics
from api.problems import problem_response
from jobs.errors import is_thread_shortage
from jobs.settings import Settings
from jobs.telemetry import log_context, span

logger = logging.getLogger("retalking.api")

REQUEST_ID_HEADER = "X-Request-Id"
# The caller's id is logged: no spaces, quotes or control characters.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
# nginx's status for "client closed request"; no response was sent.
CLIENT_GONE = 499


class Tracing:
    """Request id, log line, metrics, trace span and last error handler of every request.

    Pure ASGI, because Starlette's BaseHTTPMiddleware would buffer streams.
    """

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
                request_id = (REQUEST_ID_HEADER.lower().encode(), request.state.request_id.encode())
                message["headers"] = [*message["headers"], request_id]
            await send(message)

        parent = request.headers.get("traceparent", "")
        try:
            with (
                log_context(request=request.state.request_id),
                span(scope["method"], kind="server", parent=parent, request=request.state.request_id) as opened,
            ):
                await self.app(scope, receive, send_traced)
                if opened is not None:
                    opened.update_name(f"{scope['method']} {_route_of(scope)}")
                    opened.set_attribute("http.response.status_code", status)
        except ClientDisconnect:
            logger.info("The client disconnected during request %s", request.state.request_id)
        except Exception as fault:
            code, detail = _describe(fault)
            if code == "internal_error":
                logger.exception("Request %s failed", request.state.request_id)
            else:
                logger.error("Request %s refused: %s", request.state.request_id, code)
            if status != CLIENT_GONE:
                raise  # The response has begun: closing the connection is the only signal left.
            await problem_response(request, code, detail)(scope, receive, send_traced)
        finally:
            self._record(scope, request.state.request_id, status, time.perf_counter() - started_s)

    def _record(self, scope: Scope, request_id: str, status: int, duration_s: float) -> None:
        with log_context(request=request_id):
            logger.info("%s %s %d %.0f ms", scope["method"], quote(scope["path"]), status, duration_s * 1000)
        route = _route_of(scope)
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self.metrics.requests.labels(route, method, str(status)).inc()
        self.metrics.latency_s.labels(route, method).observe(duration_s)


def _describe(fault: Exception) -> tuple[str, str]:
    """Code and detail of an exception that no handler knows."""
    if is_thread_shortage(fault):
        return "threads_exhausted", "This process cannot start another thread now."
    return "internal_error", "An unexpected error occurred. It is logged under the request id."


def _route_of(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", None) or "unmatched"


# Callers must not be able to create new label values.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})


def accepted_id(value: str | None) -> str:
    """The caller's request id if it is safe to log, else a new one."""
    return value if value and _REQUEST_ID.fullmatch(value) else f"req_{uuid.uuid4().hex}"


def _encoded(headers: Mapping[str, str]) -> dict[bytes, bytes]:
    """As ASGI has them."""
    return {name.lower().encode(): value.encode() for name, value in headers.items()}


# For responses that are not pages: nothing in them may run, load or be framed, even if a browser sniffs another type
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
_ALWAYS = _encoded(
    {
        "X-Content-Type-Options": "nosniff",
        # URLs contain job ids and link signatures: do not send them to other sites
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        # The console records speech; nothing else is used
        "Permissions-Policy": "microphone=(self), camera=(), geolocation=(), payment=(), usb=()",
    }
)
_UNLESS_SET = _encoded(
    {
        "Content-Security-Policy": DATA_POLICY,
        # Jobs are private and change; files and pages override this
        "Cache-Control": "no-store",
        # Pages of other sites may not embed them; signed links override this, because they are made to be shared
        "Cross-Origin-Resource-Policy": "same-origin",
    }
)
EMBEDDABLE = {"Cross-Origin-Resource-Policy": "cross-origin"}


class ResponseHeaders:
    """Security headers of every response, and those that `request.state.headers` collects (rate limits)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"] = [pair for pair in message["headers"] if pair[0] not in _ALWAYS]
                given = {name for name, _ in headers}
                optional = _UNLESS_SET | _encoded(getattr(request.state, "headers", {}))
                headers += [*_ALWAYS.items(), *(pair for pair in optional.items() if pair[0] not in given)]
            await send(message)

        await self.app(scope, receive, send_with_headers)


def cors_rules(origins: Sequence[str]) -> dict[str, Any]:
    """Arguments of CORSMiddleware: pages of these origins may call the service as programs do, with a key they hold
    themselves. No cookies."""
    return {
        "allow_origins": origins,
        "allow_methods": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        "allow_headers": [
            "Authorization",
            "Content-Type",
            "Idempotency-Key",
            "If-Match",
            "If-None-Match",
            "If-Range",
            "Last-Event-ID",
            "Prefer",
            "Range",
            "Traceparent",
            REQUEST_ID_HEADER,
        ],
        "expose_headers": [
            "Content-Disposition",
            "Content-Range",
            "ETag",
            "Idempotent-Replayed",
            "Location",
            "Preference-Applied",
            "RateLimit",
            "RateLimit-Policy",
            "Retry-After",
            REQUEST_ID_HEADER,
        ],
        "max_age": 600,
    }


# They reveal nothing, and orchestrators request them by the address of the container.
_PROBES = frozenset({"/healthz", "/readyz"})


class HostGuard:
    """Refuses requests for host names that are not the service's own (DNS rebinding; see `api.access`).

    own_hosts: names beside those of loopback.
    """

    def __init__(self, app: ASGIApp, own_hosts: Iterable[str]) -> None:
        self.app = app
        self._own = frozenset(host.lower() for host in own_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _PROBES or self._is_own(_host_of(Request(scope))):
            await self.app(scope, receive, send)
            return
        detail = (
            "Without API keys the service only answers to loopback names and to the hosts in RETALKING_PUBLIC_URL and "
            "RETALKING_PUBLIC_HOSTS."
        )
        await problem_response(Request(scope), "host_not_allowed", detail)(scope, receive, send)

    def _is_own(self, host: str | None) -> bool:
        return host is not None and (host in self._own or _is_loopback(host))


def own_hosts(settings: Settings) -> list[str]:
    """Host names of the service beside those of loopback."""
    public = urlsplit(settings.public_url).hostname
    return [*settings.public_hosts, *([public] if public else [])]


def _host_of(request: Request) -> str | None:
    """The requested host name without its port; None unless there is exactly one Host header."""
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
