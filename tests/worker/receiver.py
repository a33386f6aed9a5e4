"""A real HTTP server on loopback with scripted responses that records its requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """chunks: the body, sent one by one; Content-Length is their sum unless a header says otherwise (empty: none).

    before_status, before_chunk: called at these moments, e.g. to wait.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    chunks: tuple[bytes, ...] = (b"",)
    before_status: Callable[[], None] = lambda: None
    before_chunk: Callable[[], None] = lambda: None


class Receiver:
    """replies: taken one a call; the last one stays."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.calls: list[Call] = []
        self.replies: list[Reply] = [Reply()]

    def next_reply(self) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


class _Handler(BaseHTTPRequestHandler):
    receiver: Receiver

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.receiver.calls.append(Call(self.command, self.path, headers, body))
        reply = self.receiver.next_reply()
        reply.before_status()
        self.send_response(reply.status)
        for name, value in ({"Content-Length": str(sum(map(len, reply.chunks)))} | reply.headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        for chunk in reply.chunks:
            reply.before_chunk()
            try:
                self.wfile.write(chunk)
            except OSError:
                return

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def receiving() -> Iterator[Receiver]:
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield handler.receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
