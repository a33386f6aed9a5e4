"""The whole service on one machine: Redis, a render worker, a webhook worker and the API as supervised processes.

with open_stack(...) as stack:      starts Redis, then workers and API; ready when `/readyz` is
    stack.supervise(...)            restarts processes that die
                                    at the end stops API, workers, and Redis last

Files in the data folder:

up.lock      held while `retalking up` runs
logs/*.log   one log per child process
redis/       the embedded Redis: append-only file, password
objects/     inputs and results
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import httpx

from cli.stack.forked import prepare_to_fork
from cli.stack.processes import (
    Child,
    StackAddress,
    api_spec,
    child_environment,
    describe_exit,
    listening_socket,
    worker_specs,
)
from cli.stack.redis_server import EmbeddedRedis, RedisServerError
from cli.stack.tether import tether
from jobs.settings import Settings
from retalking_client.cli.common import EXIT_UNAVAILABLE, CommandError

log = logging.getLogger(__name__)

_READY_LIMIT_S = 180.0
_ROUND_S = 0.25
_PART_NAMES = {"redis": "Redis", "objects": "object store", "workers": "render worker"}


class StoppedError(Exception):
    """Ctrl-C or SIGTERM arrived before the work was done."""


class EmbeddedStack:
    """The running processes; created by open_stack."""

    def __init__(
        self,
        address: StackAddress,
        folder: Path,
        redis: EmbeddedRedis | None,
        workers: list[Child],
        api: Child,
        stop: StopSignal,
    ) -> None:
        self.address = address
        self.folder = folder
        self._redis = redis
        self._workers = workers
        self._api = api
        self._stop = stop

    @property
    def children(self) -> list[Child]:
        return [*self._workers, self._api]

    def start(self) -> None:
        """The processes are forked if that is possible; restarted ones are fresh."""
        fork = prepare_to_fork()
        for child in self.children:
            child.start(fork=fork)

    def wait_until_ready(self, say: Callable[[str], None]) -> None:
        """At most _READY_LIMIT_S. A child that dies meanwhile is an error: only what once worked is restarted."""
        deadline_s = time.monotonic() + _READY_LIMIT_S
        awaited: dict[str, str] = {}
        with httpx.Client(base_url=self.address.url, timeout=5.0, trust_env=False) as http:
            while time.monotonic() < deadline_s:
                self._raise_for_dead_child()
                missing = _missing_parts(http)
                if not missing:
                    return
                # With a Redis of others, the worker that was heard may be another stack's.
                if "engine" in missing and self._redis is not None:
                    raise CommandError("engine_unavailable", f"The engine {missing['engine']}.", EXIT_UNAVAILABLE)
                if missing != awaited:
                    say(f"waiting for {_listed(missing)} ...")
                    awaited = missing
                if self._stop.wait(_ROUND_S):
                    raise StoppedError
        raise CommandError(
            "start_timeout",
            f"Not ready after {_READY_LIMIT_S:.0f} s, still missing: {_listed(awaited)}. "
            f"The logs are in {self.folder / 'logs'}.",
            EXIT_UNAVAILABLE,
        )

    def supervise(self, until: Callable[[], bool]) -> None:
        """Restart children that die, until the work is done. Raises StoppedError if a signal arrives before that."""
        while not until():
            self._revive_redis()
            for child in self.children:
                if message := child.tend():
                    log.warning(message)
            if self._stop.wait(_ROUND_S):
                raise StoppedError

    def shut_down(self) -> None:
        """The API first (no new jobs), then the workers in parallel (they release their jobs)."""
        for group in ([self._api], self._workers):
            for child in group:
                child.ask_to_stop()
            for child in group:
                if message := child.finish():
                    log.warning(message)

    def _revive_redis(self) -> None:
        """The other processes wait for it meanwhile. A Redis that does not start on its own data ends the stack."""
        try:
            if self._redis is not None and self._redis.revive():
                log.warning("Redis died and was restarted")
        except RedisServerError as error:
            raise CommandError("redis_failed", str(error), EXIT_UNAVAILABLE) from error

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
    gpus: Sequence[int] = (),
) -> Iterator[EmbeddedStack]:
    """Start the stack, wait until it is ready, and stop it at the end of the block.

    say: prints a line for the user. redis_url: of an external Redis; None: an embedded one in the data folder. gpus:
    numbers of the CUDA devices that get a render worker each; none: one worker, on what it finds.
    """
    folder = prepare_folder(data)
    with (
        hold_lock(folder),
        listening_socket(address) as listener,
        _redis(redis_url, folder) as redis,
    ):
        address = StackAddress(address.host, listener.getsockname()[1])
        broker_url = redis.url if redis else str(redis_url)
        environment = child_environment(settings, folder, broker_url, address)
        specs = worker_specs(folder, settings.shutdown_grace_s, gpus)
        workers = [Child(spec, environment, folder) for spec in specs]
        api = Child(api_spec(folder, listener.fileno()), environment, folder)
        stack = EmbeddedStack(address, folder, redis, workers, api, stop)
        try:
            stack.start()
            stack.wait_until_ready(say)
            yield stack
        finally:
            stack.shut_down()


@contextmanager
def _redis(url: str | None, folder: Path) -> Iterator[EmbeddedRedis | None]:
    """An embedded Redis for the length of the block; None if an external one is configured."""
    if url is not None:
        yield None
        return
    try:
        server = EmbeddedRedis(folder / "redis", launcher=tether(), meanwhile=prepare_to_fork)
    except RedisServerError as error:
        raise CommandError("redis_failed", str(error), EXIT_UNAVAILABLE) from error
    with server:
        yield server


def _listed(parts: Iterable[str]) -> str:
    return ", ".join(_PART_NAMES.get(part, part) for part in parts)


def _missing_parts(http: httpx.Client) -> dict[str, str]:
    """Part -> what is wrong, for those that `/readyz` reports as not ready; the API itself while it does not answer."""
    try:
        answer = http.get("/readyz")
    except httpx.HTTPError:
        return {"API": "does not answer"}
    if answer.is_success:
        return {}
    try:
        return {part["pointer"]: part["message"] for part in answer.json()["errors"]}
    except (ValueError, LookupError, TypeError):
        return {"API": "does not answer"}


def prepare_folder(path: Path) -> Path:
    """Create the folder, closed to other users (it contains secrets and faces). Returns its absolute path."""
    folder = path.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "logs").mkdir(exist_ok=True)
    except OSError as error:
        raise CommandError("data_folder_unusable", f"Cannot use {folder} as data folder: {error.strerror}") from error
    return folder


@contextmanager
def hold_lock(folder: Path) -> Iterator[None]:
    """One stack per folder. The kernel releases the lock when the holder dies, so it cannot become stale."""
    path = folder / "up.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 64, 0).decode(errors="replace").strip()
            raise CommandError(
                "data_folder_in_use",
                f"Another retalking (process {holder or 'unknown'}) uses {folder}: stop it, or pass another --data.",
                EXIT_UNAVAILABLE,
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


class StopSignal:
    """Flag set by the first signal, so that no signal interrupts cleanup. Later ones change nothing."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Sleep. Returns True as soon as a signal arrived."""
        return self._event.wait(timeout_s)

    def ask(self, _signum: int = 0, _frame: FrameType | None = None) -> None:
        self._event.set()


@contextmanager
def catch_signals() -> Iterator[StopSignal]:
    """Main thread only. Restores the former handlers at the end."""
    stop = StopSignal()
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    former = {number: signal.signal(number, stop.ask) for number in caught}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
