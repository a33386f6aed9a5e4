"""Entry of the API process: `python -m api.server`. The environment is read here, once."""

from __future__ import annotations

import argparse
import logging
import resource
import socket
from collections.abc import Callable, Sequence
from functools import partial

import uvicorn
from fastapi import FastAPI

from api.main import create_app
from api.wire import MAX_HEAD_BYTES, BoundedProtocol
from jobs.logging_config import configure_logging
from jobs.messages import make_celery
from jobs.opening import open_objects, open_store
from jobs.settings import Settings
from jobs.traces import start_traces

# Connections that the kernel holds while the process is busy or starts again.
BACKLOG = 1024


def app() -> FastAPI:
    settings = Settings()
    configure_logging(settings.log_format)
    start_traces(settings, "api")
    # Its lines would hold the signatures of upload links; `api.tracing` logs every request without its query.
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
