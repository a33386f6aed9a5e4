"""One supervised child process: started with its own log, stopped by its own pid, restarted with backoff."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.stack.tether import tether

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_STEADY_S = 60.0
"""A child that lived this long is healthy again: its next restart waits the first pause only."""
_LOG_LIMIT_BYTES = 20 << 20


@dataclass(frozen=True)
class ChildSpec:
    """name: for people. command: absolute program and arguments, no secrets (they show in the process list).

    grace_s: how long it may take to end after SIGTERM. keep_fds: sockets that it inherits.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    grace_s: float
    keep_fds: tuple[int, ...] = ()


class Child:
    """A running (or dead) process of a ChildSpec."""

    def __init__(self, spec: ChildSpec, environment: Mapping[str, str], folder: Path) -> None:
        self.spec = spec
        self._environment = dict(environment)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._restart_at_s: float | None = None

    def start(self) -> None:
        """Runs in a session of its own, so that Ctrl-C reaches only us and we choose the order of the end.

        The working folder is the data folder: what lies where the user stands must not be imported in place of ours.
        """
        _rotate(self.spec.log)
        with self.spec.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*tether(), *self.spec.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._folder,
                start_new_session=True,
                pass_fds=self.spec.keep_fds,
            )
        self._started_s = time.monotonic()
        self._restart_at_s = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """None while it runs (or was never started)."""
        return self._process.poll() if self._process else None

    def tend(self) -> str | None:
        """Called often: notices a death, restarts when its pause is over. Returns a sentence when that happened."""
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
            return (
                f"{self.spec.name} {describe_exit(code)}; starting it again in {pause_s:.0f} s (log: {self.spec.log})"
            )
        if now_s < self._restart_at_s:
            return None
        self.start()
        return f"{self.spec.name} started again (process {self.pid})"

    def ask_to_stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def finish(self) -> str | None:
        """Wait for the end that was asked for, else kill it; then whatever it left in its session.

        Returns a sentence when it had to be killed.
        """
        if self._process is None:
            return None
        complaint = None
        try:
            self._process.wait(self.spec.grace_s)
        except subprocess.TimeoutExpired:
            complaint = f"{self.spec.name} did not end within {self.spec.grace_s:.0f} s and was killed"
        self._sweep()
        self._process.wait()
        return complaint

    def log_tail(self, lines: int = 12) -> str:
        try:
            with self.spec.log.open(encoding="utf-8", errors="replace") as log:
                return "\n".join(map(_readable, deque(filter(str.strip, log), maxlen=lines)))
        except OSError:
            return ""

    def _sweep(self) -> None:
        """Kill what is left of the child's process group (a pool process that outlived its master)."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return


def describe_exit(code: int) -> str:
    """`ended with code 1`, or `was ended by SIGKILL`."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _readable(line: str) -> str:
    """A line of the workers' JSON journal as a person reads it: level, message, and what was raised."""
    try:
        entry = json.loads(line)
        raised = entry.get("traceback", "").rstrip().rpartition("\n")[2]
        return f"  {entry['level']}: {entry['message']}" + (f" ({raised})" if raised else "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"  {line.rstrip()}"


def _rotate(log: Path) -> None:
    """Keep one older log, so that a long-lived data folder does not fill the disk over restarts."""
    if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))
