"""Entry of the API process: `python -m api.server`. The environment is read here, once."""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.main import create_app
from jobs.journal import write_journal
from jobs.messages import make_celery
from jobs.opening import open_objects, open_store
from jobs.settings import Settings
from jobs.traces import start_traces

# Connections that the kernel holds while the process is busy or starts again.
BACKLOG = 1024
# Request line and headers. Real ones have 1 to 4 kB; browsers and proxies send no more than 8 to 16.
MAX_HEAD_BYTES = 32 * 1024
# A connection that sends no whole head in this time, or goes on with a body after its answer, is closed.
HEAD_S = 20.0
# A connection whose peer reads nothing of an answer for this long is closed.
STALLED_S = 60.0


class BoundedProtocol(H11Protocol):
    """One connection. max_connections: of the process."""

    def __init__(self, *args: Any, max_connections: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_connections = max_connections
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self.waits_since_s = 0.0

    @property
    def is_waiting(self) -> bool:
        """Before the first request or between two: nothing is lost when it is closed."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._watch_head()
        if len(self.connections) > self._max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_timer = _stopped(self._head_timer)
        self._stall_timer = _stopped(self._stall_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._stall_timer = _stopped(self._stall_timer)
        super().resume_writing()

    def _watch_head(self) -> None:
        """The time runs from the first moment of waiting: bytes that drip do not prolong it."""
        if not self.is_waiting:
            self._head_timer = _stopped(self._head_timer)
        elif self._head_timer is None:
            self.waits_since_s = self.loop.time()
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.close)

    def _make_room(self) -> None:
        """Close the connection that has waited longest, so that idle ones keep nobody out. This new one waits too, so
        there is always one: where all others are in work, it is this."""
        live = [each for each in self.connections if not each.transport.is_closing()]
        if len(live) > self._max_connections:
            waiting = [each for each in live if each.is_waiting]
            min(waiting, key=lambda each: each.waits_since_s).transport.close()


def _stopped(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def app() -> FastAPI:
    settings = Settings()
    write_journal(settings.log_format)
    start_traces(settings, "api")
    # Its lines would hold the signatures of upload links; `api.middleware` logs every request without its query.
    logging.getLogger("uvicorn.access").disabled = True
    return create_app(settings, open_store(settings), open_objects(settings), make_celery(settings))


def serve(factory: Callable[[], FastAPI] = app, arguments: Sequence[str] | None = None) -> None:
    """Until SIGTERM or Ctrl-C. factory: makes the application. arguments: of the command line; None: this process's."""
    asked = _parse(arguments)
    _allow_many_files()
    config = uvicorn.Config(
        factory,
        factory=True,
        host=asked.host,
        port=asked.port,
        http=partial(BoundedProtocol, max_connections=Settings().max_connections),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ws="none",
        backlog=BACKLOG,
        log_level=asked.log_level,
        timeout_graceful_shutdown=asked.grace_s,
    )
    # As what it is, and not through uvicorn's `fd`, which takes it for a Unix socket and leaves Nagle's algorithm on
    sockets = None if asked.fd is None else [socket.socket(fileno=asked.fd)]
    uvicorn.Server(config).run(sockets)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m api.server", description="The API of Retalking.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on")
    parser.add_argument("--fd", type=int, help="a socket that listens already, instead of host and port")
    parser.add_argument("--grace-s", type=int, help="when stopped, end what is in work after this; else wait for it")
    parser.add_argument("--log-level", default="info", choices=["critical", "error", "warning", "info", "debug"])
    return parser.parse_args(arguments)


def _allow_many_files() -> None:
    """Every connection is one; many systems start processes with 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    serve()
