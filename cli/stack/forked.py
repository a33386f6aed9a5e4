"""A service process forked from the command that supervises it.

The processes of the service share most of their imports (pydantic, Celery, redis-py, the models of jobs): a second of
CPU time for each. A fork of a process that has imported them starts in milliseconds.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import math
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from cli.stack.tether import end_with_parent

_SHARED = ("jobs.messages", "jobs.opening", "jobs.telemetry")
_RESET = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_S = 0.02
_SET_NAME = 15  # PR_SET_NAME


def prepare_to_fork() -> bool:
    """Import what all processes of the service import. None of it starts a thread or opens a connection.

    Returns whether this process may fork, which needs a single thread: locks and thread pools (of OpenCV, OpenBLAS) do
    not survive a fork. False outside Linux, where system libraries do not survive one either; nothing is imported then.
    """
    try:
        is_single = len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False
    if is_single:
        for name in _SHARED:
            import_module(name)
    return is_single


class ForkedProcess:
    """`python -m MODULE ARGUMENTS` in a fork, with the part of subprocess.Popen that `Child` uses.

    It runs in a session of its own, ends with its parent (`cli.stack.tether`), and keeps no descriptor but keep_fds and
    its log. Its environment is not in `/proc/PID/environ`, and its command line is its parent's; its name tells them
    apart (`ps -o comm`).

    log: descriptor of standard output and error. folder: its working folder.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        *,
        log: int,
        environment: Mapping[str, str],
        folder: Path,
        keep_fds: Sequence[int] = (),
    ) -> None:
        parent_pid = os.getpid()

        def run() -> None:
            atexit._clear()  # the parent's
            try:
                end_with_parent(parent_pid)
                _replace_inherited(name, log, environment, folder, keep_fds)
                sys.argv = [module, *arguments]
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            finally:
                # multiprocessing does both only from Python 3.15 on. The last spans of traces are sent by one.
                atexit._run_exitfuncs()

        self._process = multiprocessing.get_context("fork").Process(target=run, name=name)
        with _signals_blocked():
            self._process.start()
        assert self._process.pid is not None  # started
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Exit code, as of subprocess; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired. Not through `join`, whose pipe the process closed."""
        deadline_s = math.inf if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline_s:
                raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
            time.sleep(_POLL_S)
        return code

    def terminate(self) -> None:
        self._process.terminate()


def _replace_inherited(
    name: str, log: int, environment: Mapping[str, str], folder: Path, keep_fds: Sequence[int]
) -> None:
    """What an `exec` replaces. Objects of the parent that own closed descriptors are in its frames, which stay alive
    until this process ends: none is closed twice."""
    os.setsid()
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for standard in (1, 2):
        os.dup2(log, standard)
    # The parent's may be other files: whoever calls it may have replaced them.
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2 and descriptor not in keep_fds:
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    ctypes.CDLL(None).prctl(_SET_NAME, name.encode()[:15])
    for number in _RESET:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _RESET)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A signal to the new process waits until it has its own handlers: its parent's would swallow it."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, _RESET)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
