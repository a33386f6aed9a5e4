"""Child processes of the embedded stack: their commands and environment, and their supervision."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from cli.stack.forked import ForkedProcess
from cli.stack.tether import tether
from jobs.settings import Settings
from retalking_client.cli.common import EXIT_UNAVAILABLE, CommandError

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_STEADY_S = 60.0
"""A child that lived this long is healthy again: its next restart waits the first pause only."""
_LOG_LIMIT_BYTES = 20 << 20


@dataclass(frozen=True)
class ChildSpec:
    """What to run."""

    name: str
    module: str
    """Run as `python -m`."""
    arguments: tuple[str, ...]
    """Without secrets: the process list shows them."""
    log: Path
    grace_s: float
    """Time to exit after SIGTERM."""
    keep_fds: tuple[int, ...] = ()
    """Sockets that it inherits."""
    gpu: int | None = None
    """The only CUDA device that it sees, by its number; None: what this process sees."""


class Child:
    """A process of a ChildSpec, restarted with backoff when it dies."""

    def __init__(self, spec: ChildSpec, environment: Mapping[str, str], folder: Path) -> None:
        self.spec = spec
        device = {} if spec.gpu is None else {"CUDA_VISIBLE_DEVICES": str(spec.gpu)}
        self._environment = dict(environment) | device
        self._folder = folder
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None
        self._started_s = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._restart_at_s: float | None = None

    def start(self, *, fork: bool = False) -> None:
        """In a session of its own, so that Ctrl-C reaches only the parent, which stops its children in order.

        The working folder is the data folder: files in the user's folder must not be imported in place of ours.

        fork: fork this process, which `forked.prepare_to_fork` allowed; otherwise a fresh interpreter runs,
        with what is on the disk now.
        """
        _rotate(self.spec.log)
        with self.spec.log.open("ab") as log:
            self._process = self._fork(log.fileno()) if fork else self._execute(log.fileno())
        self._started_s = time.monotonic()
        self._restart_at_s = None

    def _fork(self, log: int) -> ForkedProcess:
        spec = self.spec
        return ForkedProcess(
            spec.name,
            spec.module,
            spec.arguments,
            log=log,
            environment=self._environment,
            folder=self._folder,
            keep_fds=spec.keep_fds,
        )

    def _execute(self, log: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*tether(), sys.executable, "-P", "-m", self.spec.module, *self.spec.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self._environment,
            cwd=self._folder,
            start_new_session=True,
            pass_fds=self.spec.keep_fds,
        )

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """None while it runs, or if it was never started."""
        return self._process.poll() if self._process else None

    def tend(self) -> str | None:
        """Called often: notices a death, and restarts after a pause. Returns a message when something happened."""
        code = self.exit_code
        if code is None:
            return None
        now_s = time.monotonic()
        if self._restart_at_s is None:
            self._sweep()
            if now_s - self._started_s > _STEADY_S:
                self._pause_s = _FIRST_PAUSE_S
            self._restart_at_s = now_s + self._pause_s
            pause_s, self._pause_s = self._pause_s, min(self._pause_s * 2, _LONGEST_PAUSE_S)
            return f"{self.spec.name} {describe_exit(code)}; restarting in {pause_s:.0f} s (log: {self.spec.log})"
        if now_s < self._restart_at_s:
            return None
        self.start()
        return f"{self.spec.name} restarted (process {self.pid})"

    def ask_to_stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def finish(self) -> str | None:
        """Wait for its exit, kill it after `grace_s`, then kill what remains in its session.

        Returns a message when it had to be killed.
        """
        if self._process is None:
            return None
        message = None
        try:
            self._process.wait(self.spec.grace_s)
        except subprocess.TimeoutExpired:
            message = f"{self.spec.name} did not exit within {self.spec.grace_s:.0f} s and was killed"
        self._sweep()
        self._process.wait()
        return message

    def log_tail(self, lines: int = 12) -> str:
        try:
            with self.spec.log.open(encoding="utf-8", errors="replace") as log:
                return "\n".join(map(_readable, deque(filter(str.strip, log), maxlen=lines)))
        except OSError:
            return ""

    def _sweep(self) -> None:
        """Kill the rest of the child's process group (such as pool processes of a dead parent)."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return


def describe_exit(code: int) -> str:
    """`exited with code 1`, or `was killed by SIGKILL`."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _readable(line: str) -> str:
    """A line of the workers' JSON log in plain text: level, message, exception."""
    try:
        entry = json.loads(line)
        raised = entry.get("traceback", "").rstrip().rpartition("\n")[2]
        return f"  {entry['level']}: {entry['message']}" + (f" ({raised})" if raised else "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"  {line.rstrip()}"


def _rotate(log: Path) -> None:
    """Keep one older log, so that logs do not fill the disk over many restarts."""
    if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))


@dataclass(frozen=True)
class StackAddress:
    """Where the API listens. port 0: any free one."""

    host: str
    port: int

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


@contextmanager
def listening_socket(address: StackAddress) -> Iterator[socket.socket]:
    """Bound here and inherited by the API: no other program can take the port meanwhile, and while the API restarts its
    callers wait in the backlog."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CommandError("host_unknown", f"{address.host} is not an address of this machine: {error}") from error
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
                f"Cannot listen on {address.host} port {address.port} ({error.strerror}): pass another --port.",
                EXIT_UNAVAILABLE,
            ) from error
        yield listener


def worker_specs(folder: Path, grace_s: float, gpus: Sequence[int] = ()) -> list[ChildSpec]:
    """A render worker, or one for each of these CUDA devices, and a webhook worker.

    grace_s: time that a worker leaves its job before it releases it; it needs a little longer to exit.

    Node names must be unique on a broker that several stacks share.
    """
    node_id, limit_s, logs = secrets.token_hex(4), grace_s + 12.0, folder / "logs"
    renderers = [
        ChildSpec(
            "render worker" if gpu is None else f"render worker of GPU {gpu}",
            "worker.gpu",
            ("--name", f"render-{node_id}" + ("" if gpu is None else f"-{gpu}")),
            logs / ("gpu-worker.log" if gpu is None else f"gpu-worker-{gpu}.log"),
            limit_s,
            gpu=gpu,
        )
        for gpu in gpus or (None,)
    ]
    return [*renderers, ChildSpec("webhook worker", "worker.webhooks", (), logs / "webhook-worker.log", limit_s)]


def api_spec(folder: Path, listener: int) -> ChildSpec:
    # The limit: open event streams must not delay the exit.
    arguments = ("--fd", str(listener), "--grace-s", "3")
    return ChildSpec("API", "api.server", arguments, folder / "logs" / "api.log", grace_s=10.0, keep_fds=(listener,))


def child_environment(settings: Settings, folder: Path, redis_url: str, address: StackAddress) -> dict[str, str]:
    """The configured settings (from the environment or .env) with absolute paths, and the addresses of this stack.

    Secrets are passed here and never on a command line, which every user of the machine can read.
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
