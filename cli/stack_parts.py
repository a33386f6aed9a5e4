"""What the embedded stack is made of: its address, the commands of its processes, and what they are told."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from cli.stack.processes import ChildSpec
from jobs.settings import Settings
from retalking_client.cli.failures import EXIT_UNAVAILABLE, CommandError


@dataclass(frozen=True)
class StackAddress:
    """Where the API listens, and how callers on this machine reach it. port 0: any free one."""

    host: str
    port: int

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


@contextmanager
def listening_socket(address: StackAddress) -> Iterator[socket.socket]:
    """Bound here and handed to the API: no other program can take the port in between, and while the API starts again
    its callers wait in line."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CommandError("host_unknown", f"{address.host} is no address of this machine: {error}") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit this. An event loop sets it only on connections that it knows to be TCP, and
        # uvicorn opens a passed descriptor as a Unix socket. Without it Nagle's algorithm holds the second small packet
        # of each answer until the client's delayed acknowledgement: 44 ms instead of 0.6 on a kept connection.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            listener.bind(target)
            listener.listen(1024)
        except OSError as error:
            raise CommandError(
                "port_in_use",
                f"Can not listen on {address.host} port {address.port} ({error.strerror}): pass another --port.",
                EXIT_UNAVAILABLE,
            ) from error
        yield listener


def worker_specs(folder: Path, grace_s: float) -> list[ChildSpec]:
    """grace_s: what a worker gives its running job before it hands it back; it needs a little longer to end.

    Node names must be unique on a broker that several stacks share.
    """
    mark, limit_s = secrets.token_hex(4), grace_s + 12.0
    celery = (sys.executable, "-P", "-m", "celery")
    render = (*celery, "-A", "worker.gpu", "worker", "-n", f"render-{mark}@%h")
    webhooks = (sys.executable, "-P", "-m", "worker.webhooks")
    return [
        ChildSpec("render worker", render, folder / "logs" / "gpu-worker.log", limit_s),
        ChildSpec("webhook worker", webhooks, folder / "logs" / "webhook-worker.log", limit_s),
    ]


def api_spec(folder: Path, listener: int) -> ChildSpec:
    command = (sys.executable, "-P", "-m", "api.server", "--fd", str(listener))
    limits = ("--grace-s", "3")  # an open event stream must not hold up the end
    return ChildSpec("API", (*command, *limits), folder / "logs" / "api.log", grace_s=10.0, keep_fds=(listener,))


def child_environment(settings: Settings, folder: Path, redis_url: str, address: StackAddress) -> dict[str, str]:
    """What was configured (by environment or .env) under absolute paths, and where the parts of this stack are.

    Secrets travel here and never on a command line, which every user of the machine can read.
    """
    values = {name: getattr(settings, name) for name in settings.model_fields_set}
    values |= {
        "redis_url": redis_url,
        "data_dir": folder,
        "models_dir": settings.models_dir,
        "public_url": values.get("public_url", address.url),
    }
    return dict(os.environ) | {f"RETALKING_{name.upper()}": _as_text(value) for name, value in values.items()}


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value.expanduser().resolve())
    if isinstance(value, list):
        return ",".join(value)
    return str(value) if value is not None else ""
