"""Servers on loopback that jobs name: one that serves the clips, one that does to its callers what it can."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Another address than that of healthy receivers and files: what is limited by host must not meet those.
HOSTILE_ADDRESS = "127.0.0.2"
# One that the service is not allowed to reach.
TRAP_ADDRESS = "127.0.0.3"
DRIP_BYTES, DRIP_PAUSE_S = 40, 0.5
RETRY_AFTERS = (
    b"-1",
    b"1e999",
    b"nan",
    b"9" * 400,
    b"\xff\xfe\x00",
    b"Wed, 99 Nov 2026 99:99:99 GMT",
    b"Thu, 01 Jan 1970 00:00:00 GMT",
    b"Fri, 31 Dec 9999 23:59:59 -2359",
    "\u0663".encode(),
    b"",
)


class FileHost:
    """Serves the clips to jobs that name an address."""

    def __init__(self, files: dict[str, Path]) -> None:
        contents = {f"/{name}": path.read_bytes() for name, path in files.items()}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = contents.get(self.path, b"")
                self.send_response(200 if content else 404)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class SocketHost:
    """Hands every connection to `answer` in a thread of its own, and closes it afterwards."""

    def __init__(self, address: str) -> None:
        host = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                try:
                    host.answer(self.request)
                except OSError:
                    return  # who asked has left

        server = type("Server", (socketserver.ThreadingTCPServer,), {"daemon_threads": True, "request_queue_size": 128})
        self._server = server((address, 0), Handler)
        self.url = f"http://{address}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, connection: socket.socket) -> None:
        raise NotImplementedError


class Trap(SocketHost):
    """On an address that the service must not reach. visits: connections that were made to it."""

    def __init__(self) -> None:
        self.visits = 0
        super().__init__(TRAP_ADDRESS)

    def answer(self, connection: socket.socket) -> None:
        self.visits += 1


class HostileHost(SocketHost):
    """Reads a request and answers by its path. trap: where redirects lead."""

    def __init__(self, trap: Trap) -> None:
        self._trap = trap.url.encode()
        self._over = threading.Event()
        super().__init__(HOSTILE_ADDRESS)

    def stop(self) -> None:
        self._over.set()
        super().stop()

    def answer(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        path = connection.recv(65536).partition(b" ")[2].partition(b" ")[0].decode("latin-1")
        name, _, rest = path.strip("/").partition("/")
        answers: dict[str, Callable[[], None]] = {
            "never": lambda: self._wait(60),
            "close": lambda: None,
            "redirect": lambda: connection.sendall(_head(b"302 Found", b"Location: " + self._trap)),
            "bad-location": lambda: connection.sendall(_head(b"302 Found", b"Location: http://[")),
            "retry-after": lambda: connection.sendall(
                _head(b"503 Busy", b"Retry-After: " + RETRY_AFTERS[int(rest or 0) % len(RETRY_AFTERS)])
            ),
            "junk": lambda: connection.sendall(b"\x00\xffSSH-2.0-x\r\n\r\n" * 100),
            "drip": lambda: self._drip(connection),
            "endless-header": lambda: self._endless_header(connection),
        }
        answers.get(name, lambda: connection.sendall(_head(b"404 Not Found", b"X: 1")))()

    def _wait(self, seconds: float) -> None:
        self._over.wait(seconds)

    def _drip(self, connection: socket.socket) -> None:
        """A video that comes a byte at a time, and breaks off."""
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n")
        for _ in range(DRIP_BYTES):
            connection.sendall(b"\0")
            self._wait(DRIP_PAUSE_S)

    def _endless_header(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        until = time.monotonic() + 5
        while time.monotonic() < until and not self._over.is_set():
            connection.sendall(b"a" * 65536)
            time.sleep(0.01)


def _head(status: bytes, field: bytes) -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + field + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
