"""Ctrl-C and SIGTERM as a flag that loops read, so that no cleanup is ever cut in half by a signal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopSignal:
    """Set by the first signal; later ones change nothing (the end is bounded in time anyway)."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    @property
    def is_set(self) -> bool:
        return self._asked.is_set()

    def wait(self, timeout_s: float) -> bool:
        """True as soon as the stop is asked for."""
        return self._asked.wait(timeout_s)

    def ask(self, _signum: int = 0, _frame: FrameType | None = None) -> None:
        self._asked.set()


@contextmanager
def catch_signals() -> Iterator[StopSignal]:
    """Main thread only. The former handlers come back afterwards."""
    stop = StopSignal()
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    former = {number: signal.signal(number, stop.ask) for number in caught}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
