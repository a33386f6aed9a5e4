"""Around every request: an id in and out, its count and latency, and the last net for what nobody caught."""

from __future__ import annotations

import logging
import re
import time
import uuid
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import RequestMetrics
from api.problems import problem_response
from jobs.errors import is_thread_shortage
from jobs.logging_config import log_context
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
                log_context(request=request.state.request_id),
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
        with log_context(request=request_id):
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
