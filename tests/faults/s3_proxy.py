"""An HTTP proxy in front of the real S3 endpoint that makes chosen requests fail.

Requests are passed on byte for byte (the signature covers the Host header, which stays that of the proxy).
"""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# The connection ends at the answer: no connection outlives a fault, and none hides one.
_HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding"}


@dataclass
class Fault:
    """What happens to requests whose `METHOD path?query` the pattern finds, for the first `times` of them.

    refuse: closed without an answer. status: answered so, not passed on. truncate: half of the answer's body, then
    closed. cut_upload: half of the request's body is passed on, then both ends are closed. drip_s: pause between
    chunks of 4 kB. hold: passed on and carried out, the answer waits for the event.
    """

    pattern: str
    times: float = float("inf")
    refuse: bool = False
    status: int | None = None
    truncate: bool = False
    cut_upload: bool = False
    drip_s: float = 0.0
    hold: threading.Event | None = None
    met: int = 0
    met_once: threading.Event = field(default_factory=threading.Event)

    def meets(self, request: str) -> bool:
        if self.met >= self.times or not re.search(self.pattern, request):
            return False
        self.met += 1
        self.met_once.set()
        return True


class S3FaultProxy:
    """endpoint: its address. Faults hold inside `with proxy.fault(...)`."""

    def __init__(self, target: str) -> None:
        self.target_port = int(target.rpartition(":")[2])
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @contextmanager
    def fault(self, pattern: str, **what: object) -> Iterator[Fault]:
        made = Fault(pattern, **what)
        with self._lock:
            self._faults.append(made)
        try:
            yield made
        finally:
            with self._lock:
                self._faults.remove(made)
            if made.hold is not None:
                made.hold.set()

    def find(self, request: str) -> Fault | None:
        with self._lock:
            return next((fault for fault in self._faults if fault.meets(request)), None)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: S3FaultProxy
    protocol_version = "HTTP/1.1"

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.close_connection = True
        fault = self.proxy.find(f"{self.command} {self.path}")
        if fault is None:
            self._forward(body, Fault(""))
        elif fault.refuse:
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault.status is not None:
            self._refuse(fault.status)
        elif fault.cut_upload:
            self._forward_half(body)
        else:
            self._forward(body, fault)

    def _refuse(self, status: int) -> None:
        code = "SlowDown" if status == 503 else "InternalError"
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>made up</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _ask(self, body: bytes) -> http.client.HTTPConnection:
        """The request, sent to the endpoint, of `body` as much as is given here."""
        upstream = http.client.HTTPConnection("127.0.0.1", self.proxy.target_port, timeout=60)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _HOP_HEADERS | {"expect"}:
                upstream.putheader(name, value)
        upstream.endheaders(body)
        return upstream

    def _forward_half(self, body: bytes) -> None:
        upstream = self._ask(body[: len(body) // 2])
        time.sleep(0.1)
        upstream.close()
        self.connection.shutdown(socket.SHUT_RDWR)

    def _forward(self, body: bytes, fault: Fault) -> None:
        upstream = self._ask(body)
        try:
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        if fault.hold is not None:
            fault.hold.wait(120)
        try:
            self._answer(answer, content, fault)
        except OSError:
            return  # the client closed the connection

    def _answer(self, answer: http.client.HTTPResponse, content: bytes, fault: Fault) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_HEADERS:
                self.send_header(name, value)
        if answer.getheader("Content-Length") is None:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        kept = content[: len(content) // 2] if fault.truncate else content
        for start in range(0, len(kept), 4096):
            self.wfile.write(kept[start : start + 4096])
            time.sleep(fault.drip_s)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass

    def log_message(self, *_: object) -> None:
        return
