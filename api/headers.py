"""Headers of every answer: the request's id, what the key has left, and what browsers must not do with it."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
