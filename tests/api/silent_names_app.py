"""Entry of an API on whose machine the names under silent.example have a name server that never answers."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

from fastapi import FastAPI

from api import server
from tests.services import silent_name_server

_open = ExitStack()


def app() -> FastAPI:
    ask = _open.enter_context(silent_name_server())
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **named: Any) -> Any:
        if str(host).endswith(".silent.example"):
            ask(str(host))
        return real(host, *args, **named)

    socket.getaddrinfo = getaddrinfo
    return server.app()


if __name__ == "__main__":
    server.serve(app)
