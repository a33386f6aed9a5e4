"""One process of the service under test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.worker.conftest import ROOT

STOP_LIMIT_S = 20.0


class ServiceProcess:
    """arguments: after `python -m`. Its output goes to `log`."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], log: Path, prefix: tuple[str, ...] = ()):
        self.log = log
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-m", *arguments],
                cwd=ROOT,
                env=os.environ | dict(environment),
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def children(self) -> list[int]:
        """Pool processes."""
        return [int(word) for word in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, timeout_s: float = STOP_LIMIT_S) -> int:
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL to this process alone, not to its children."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> None:
        """End it and its children, also when it hangs."""
        if self.is_alive:
            self.signal(signal.SIGTERM)
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self._end_group()
        self._end_group()

    def _end_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def is_running(pid: int) -> bool:
    """False for a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
