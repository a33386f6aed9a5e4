"""A proxy that breaks connections: requests go to the real service, responses are lost, cut or delayed as the next
`Fault` says."""

from __future__ import annotations

import http.client
import threading
import urllib.parse
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

_HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "content-length", "keep-alive"})


@dataclass(frozen=True)
class Fault:
    """For requests whose path ends with `path` (method alone: any). lose_answer: the service gets the request, the
    caller gets nothing. cut_after: bytes of the body until the connection ends. status, headers: this instead of asking
    the service at all. times: how many requests it lasts."""

    method: str
    path: str = ""
    lose_answer: bool = False
    cut_after: int | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    times: int = 1


class BreakingProxy:
    """asked: (method, path, headers in lower case) of every request so far."""

    def __init__(self, target: str) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        handler = type("Handler", (_Handler,), {"proxy": self, "target": urllib.parse.urlsplit(target)})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def will(self, *faults: Fault) -> None:
        self._faults += [fault for fault in faults for _ in range(fault.times)]

    def count(self, method: str, path: str) -> int:
        return sum(asked[0] == method and asked[1].endswith(path) for asked in self.asked)

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.method == method and path.endswith(fault.path):
                    self._faults.remove(fault)
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    proxy: BreakingProxy
    target: urllib.parse.SplitResult
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        path = self.path.partition("?")[0]
        self.proxy.asked.append((self.command, path, {name.lower(): value for name, value in self.headers.items()}))
        fault = self.proxy.next_fault(self.command, path)
        body = self._body()
        self.close_connection = True
        if fault is not None and fault.status is not None:
            self._answer(fault.status, {"Content-Length": str(len(fault.body))} | fault.headers, [fault.body])
            return
        link = http.client.HTTPConnection(self.target.hostname, self.target.port, timeout=60)
        with closing(link):
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            link.request(self.command, self.path, body=body, headers=headers)
            with link.getresponse() as answer:
                if fault is not None and fault.lose_answer:
                    answer.read()
                    return
                kept = {name: value for name, value in answer.getheaders() if name.lower() != "transfer-encoding"}
                self._answer(answer.status, kept, self._read(answer, fault.cut_after if fault else None))

    do_GET = do_POST = do_PUT = do_DELETE = _pass_on

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("transfer-encoding", ""):
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _read(self, answer: http.client.HTTPResponse, cut_after: int | None):
        left = cut_after
        while piece := answer.read1(1 << 16):
            yield piece if left is None else piece[:left]
            if left is not None:
                left -= len(piece)
                if left <= 0:
                    return

    def _answer(self, status: int, headers: dict[str, str], body) -> None:
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            for piece in body:
                self.wfile.write(piece)
                self.wfile.flush()
        except ConnectionError:
            return  # the client had enough

    def log_message(self, *_: object) -> None:
        """Quiet."""
