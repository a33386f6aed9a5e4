"""A real HTTP server on this machine that serves one file, and can break off, change it, and refuse."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import torch


@dataclass
class Mirror:
    """One file behind HTTP. break_after: bytes of an answer after which the connection is cut, one entry an answer;
    refusals: status codes to give first. requests: (path, Range header) as they came."""

    body: bytes
    tag: str = '"one"'
    break_after: list[int | None] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    ranges: bool = True
    delay_s: float = 0.0
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.requests.append((handler.path, asked))
        time.sleep(self.delay_s)
        if self.refusals:
            handler.send_error(self.refusals.pop(0))
            return
        start = 0
        condition = handler.headers.get("If-Range") or handler.headers.get("If-Match")  # S3 knows the latter only
        if asked and self.ranges and condition == self.tag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        else:
            handler.send_response(200)
        if self.ranges:
            handler.send_header("ETag", self.tag)
        part = self.body[start:]
        handler.send_header("Content-Length", str(len(part)))
        handler.end_headers()
        cut = self.break_after.pop(0) if self.break_after else None
        handler.wfile.write(part[:cut])


def to_bytes(content: object) -> bytes:
    buffer = BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@contextmanager
def serve(body: bytes) -> Iterator[Mirror]:
    """The body under any path; also answers as a proxy and as an S3 endpoint would be asked."""
    mirror = Mirror(body)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror.answer(self)

        def log_message(self, *_args: object) -> None:
            """Keeps the test output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    mirror.url = f"http://127.0.0.1:{server.server_port}/weights"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield mirror
    server.shutdown()
    server.server_close()
