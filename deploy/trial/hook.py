"""A webhook receiver for the trial: keeps what is signed with the deployment's secret, refuses the rest."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from standardwebhooks import Webhook, WebhookVerificationError


class Receiver:
    """Listens on 127.0.0.1 while it is entered. events: what arrived with a good signature."""

    def __init__(self, secret: str) -> None:
        self.events: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(Webhook(secret)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/hook"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()

    def _handler(self, webhook: Webhook) -> type[BaseHTTPRequestHandler]:
        events = self.events

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                try:
                    events.append(webhook.verify(body, {name.lower(): value for name, value in self.headers.items()}))
                except WebhookVerificationError:
                    return self.send_error(401)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """The trial prints what it finds; requests are in `events`."""

        return Handler
