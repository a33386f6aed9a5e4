"""Entry point of the API process: `python -m api.server`. The environment is read here, once.

HTTP is parsed by h11 instead of httptools, which uvicorn prefers if it is installed: h11 reads one request at a time,
so pipelined requests wait as bytes, and it ends a request whose head exceeds a limit. httptools parses everything that
has arrived and has no limit on heads (`bench/front_door.py`). `BoundedProtocol` adds what uvicorn leaves open:
deadlines for heads and for unread responses, and a limit on connections.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import socket
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.main import create_app
from jobs.messages import make_celery
from jobs.opening import open_objects, open_store
from jobs.settings import Settings
from jobs.telemetry import configure_logging, start_traces

# Connections that the kernel queues while the process is busy or restarts.
BACKLOG = 1024
# Request line and headers. Real ones have 1 to 4 kB; browsers and proxies send at most 8 to 16.
MAX_HEAD_BYTES = 32 * 1024
# A connection that sends no complete head in this time, or continues a body after the response, is closed.
HEAD_S = 20.0


class BoundedProtocol(H11Protocol):
    """One connection.

    max_connections: limit of the process. unread_response_s: a connection that reads nothing of a response for this
    long is closed.
    """

    def __init__(self, *args: Any, max_connections: int, unread_response_s: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_connections = max_connections
        self._unread_response_s = unread_response_s
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self.idle_since_s = 0.0

    @property
    def is_idle(self) -> bool:
        """Before the first request or between two: closing it loses nothing."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._watch_head()
        if len(self.connections) > self._max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_head_timer()
        self._cancel_unread_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(self._unread_response_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._cancel_unread_timer()
        super().resume_writing()

    def _watch_head(self) -> None:
        """The deadline counts from the moment the connection became idle: bytes that trickle in do not extend it."""
        if not self.is_idle:
            self._cancel_head_timer()
        elif self._head_timer is None:
            self.idle_since_s = self.loop.time()
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.close)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _cancel_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _make_room(self) -> None:
        """Close the connection that has been idle longest, so that idle ones keep nobody out. There always is one: this
        new connection is idle too, and is closed if all others are busy."""
        own = [each for each in self.connections if isinstance(each, BoundedProtocol)]
        live = [each for each in own if not each.transport.is_closing()]
        if len(live) > self._max_connections:
            idle = [each for each in live if each.is_idle]
            min(idle, key=lambda each: each.idle_since_s).transport.close()


class Server(uvicorn.Server):
    """Calls that wait for a job answer when the process is told to stop, or it would wait for them.

    on_exit: called when the signal arrives.
    """

    def __init__(self, config: uvicorn.Config, on_exit: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_exit = on_exit

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._on_exit()


def app() -> FastAPI:
    settings = Settings()
    configure_logging(settings.log_format)
    start_traces(settings.traces_endpoint, "api")
    # It would log the signatures of upload links; `api.middleware` logs every request without its query.
    logging.getLogger("uvicorn.access").disabled = True
    return create_app(settings, open_store(settings), open_objects(settings), make_celery(settings))


def serve(factory: Callable[[], FastAPI] = app, arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C. arguments: of the command line; None: those of this process."""
    options = _parse(arguments)
    _raise_file_limit()
    settings = Settings()
    protocol = partial(
        BoundedProtocol,
        max_connections=settings.max_connections,
        unread_response_s=settings.unread_response_s,
    )
    opened: list[FastAPI] = []

    def build() -> FastAPI:
        opened.append(factory())
        return opened[0]

    def close() -> None:
        for application in opened:
            application.state.parts.changes.close()

    config = uvicorn.Config(
        build,
        factory=True,
        host=options.host,
        port=options.port,
        http=cast(type[asyncio.Protocol], protocol),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ws="none",
        backlog=BACKLOG,
        log_level=options.log_level,
        timeout_graceful_shutdown=options.grace_s,
    )
    # Not through uvicorn's `fd`, which assumes a Unix socket and so leaves Nagle's algorithm on
    sockets = None if options.fd is None else [socket.socket(fileno=options.fd)]
    Server(config, close).run(sockets)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m api.server", description="The API of Retalking.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on")
    parser.add_argument("--fd", type=int, help="file descriptor of a listening socket, instead of host and port")
    parser.add_argument(
        "--grace-s", type=int, help="on shutdown, cancel open requests after this many seconds; default: wait for them"
    )
    parser.add_argument("--log-level", default="info", choices=["critical", "error", "warning", "info", "debug"])
    return parser.parse_args(arguments)


def _raise_file_limit() -> None:
    """Raise the limit on file descriptors: every connection needs one, and many systems start processes with 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    serve()
