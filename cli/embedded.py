"""The whole service on one machine: Redis, a render worker, a webhook worker and the API as supervised processes.

with open_stack(...) as stack:      Redis, then workers and API; ready when `/readyz` is green
    stack.supervise(...)            what dies starts again
                                    the end: API, workers, Redis last
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import SecretStr

from cli.children import Child, ChildSpec, describe_exit
from cli.data_folder import hold_lock, prepare_folder
from cli.failures import EXIT_UNAVAILABLE, CommandError
from cli.redis_server import EmbeddedRedis, RedisServerError
from cli.stopping import StopSignal
from cli.tether import tether
from jobs.settings import Settings

log = logging.getLogger(__name__)

_READY_LIMIT_S = 180.0
_ROUND_S = 0.25
_PART_NAMES = {"redis": "Redis", "objects": "object store", "workers": "render worker"}


class StoppedError(Exception):
    """Ctrl-C or SIGTERM came before the work was done."""


@dataclass(frozen=True)
class StackAddress:
    """Where the API listens, and how callers on this machine reach it. port 0: any free one."""

    host: str
    port: int

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class EmbeddedStack:
    """The running processes. Made by open_stack."""

    def __init__(self, address: StackAddress, folder: Path, workers: list[Child], api: Child, stop: StopSignal) -> None:
        self.address = address
        self.folder = folder
        self._workers = workers
        self._api = api
        self._stop = stop

    @property
    def children(self) -> list[Child]:
        return [*self._workers, self._api]

    def start(self) -> None:
        for child in self.children:
            child.start()

    def wait_until_ready(self, say: Callable[[str], None]) -> None:
        """Bounded. A child that dies now is an error: nothing that never worked is started again and again."""
        deadline_s = time.monotonic() + _READY_LIMIT_S
        awaited: list[str] = []
        with httpx.Client(base_url=self.address.url, timeout=5.0, trust_env=False) as http:
            while time.monotonic() < deadline_s:
                self._raise_for_dead_child()
                missing = _missing_parts(http)
                if not missing:
                    return
                if missing != awaited:
                    say(f"waiting for {', '.join(missing)} ...")
                    awaited = missing
                if self._stop.wait(_ROUND_S):
                    raise StoppedError
        raise CommandError(
            "start_timeout",
            f"Not ready after {_READY_LIMIT_S:.0f} s, still missing: {', '.join(awaited)}. "
            f"The logs are in {self.folder / 'logs'}.",
            EXIT_UNAVAILABLE,
        )

    def supervise(self, until: Callable[[], bool]) -> None:
        """Start again what dies, until the work is done. Raises StoppedError when the stop is asked for before that."""
        while not until():
            for child in self.children:
                if news := child.tend():
                    log.warning(news)
            if self._stop.wait(_ROUND_S):
                raise StoppedError

    def shut_down(self) -> None:
        """The API first (no new jobs), then the workers side by side (a running job goes back to the line)."""
        for group in ([self._api], self._workers):
            for child in group:
                child.ask_to_stop()
            for child in group:
                if complaint := child.finish():
                    log.warning(complaint)

    def _raise_for_dead_child(self) -> None:
        for child in self.children:
            code = child.exit_code
            if code is not None:
                raise CommandError(
                    "start_failed",
                    f"The {child.spec.name} {describe_exit(code)} while starting. The end of {child.spec.log}:\n"
                    f"{child.log_tail()}",
                    EXIT_UNAVAILABLE,
                )


@contextmanager
def open_stack(
    settings: Settings,
    address: StackAddress,
    data: Path,
    stop: StopSignal,
    say: Callable[[str], None],
    redis_url: str | None = None,
) -> Iterator[EmbeddedStack]:
    """Everything up and ready, and everything down again at the end, however it comes.

    redis_url: a Redis that runs elsewhere; None: an embedded one, kept in the data folder.
    """
    folder = prepare_folder(data)
    with (
        hold_lock(folder),
        listening_socket(address) as listener,
        _redis(redis_url, folder) as broker_url,
    ):
        address = StackAddress(address.host, listener.getsockname()[1])
        environment = _child_environment(settings, folder, broker_url, address)
        workers = [Child(spec, environment, folder) for spec in _worker_specs(folder, settings.shutdown_grace_s)]
        api = Child(_api_spec(folder, listener.fileno()), environment, folder)
        stack = EmbeddedStack(address, folder, workers, api, stop)
        try:
            stack.start()
            stack.wait_until_ready(say)
            yield stack
        finally:
            stack.shut_down()


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


@contextmanager
def _redis(url: str | None, folder: Path) -> Iterator[str]:
    """The Redis that was named, or an embedded one for as long as this lasts."""
    if url is not None:
        yield url
        return
    try:
        server = EmbeddedRedis(folder / "redis", launcher=tether())
    except RedisServerError as error:
        raise CommandError("redis_failed", str(error), EXIT_UNAVAILABLE) from error
    with server:
        yield server.url


def _worker_specs(folder: Path, grace_s: float) -> list[ChildSpec]:
    """grace_s: what a worker gives its running job before it hands it back; it needs a little longer to end.

    Node names must be unique on a broker that several stacks share.
    """
    mark, limit_s = secrets.token_hex(4), grace_s + 12.0
    celery = (sys.executable, "-P", "-m", "celery")
    render = (*celery, "-A", "worker.gpu", "worker", "--pool", "prefork", "-c", "1", "-n", f"render-{mark}@%h")
    webhooks = (*celery, "-A", "worker.webhooks", "worker", "-n", f"webhooks-{mark}@%h")
    return [
        ChildSpec("render worker", render, folder / "logs" / "gpu-worker.log", limit_s),
        ChildSpec("webhook worker", webhooks, folder / "logs" / "webhook-worker.log", limit_s),
    ]


def _api_spec(folder: Path, listener: int) -> ChildSpec:
    command = (sys.executable, "-P", "-m", "uvicorn", "--factory", "api.server:app", "--fd", str(listener))
    limits = ("--timeout-graceful-shutdown", "3")  # an open event stream must not hold up the end
    return ChildSpec("API", (*command, *limits), folder / "logs" / "api.log", grace_s=10.0, keep_fds=(listener,))


def _child_environment(settings: Settings, folder: Path, redis_url: str, address: StackAddress) -> dict[str, str]:
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


def _missing_parts(http: httpx.Client) -> list[str]:
    """Names of what `/readyz` calls not ready; the API itself while it does not answer."""
    try:
        answer = http.get("/readyz")
    except httpx.HTTPError:
        return ["API"]
    if answer.is_success:
        return []
    try:
        return [_PART_NAMES.get(part["pointer"], part["pointer"]) for part in answer.json()["errors"]]
    except (ValueError, LookupError, TypeError):
        return ["API"]
