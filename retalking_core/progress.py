"""Progress and timing of a render. An exception raised by the progress hook stops the engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from retalking_core.errors import RenderCanceled
from retalking_core.vocabulary.engines import JobStage

Item = TypeVar("Item")
EVALUATE: JobStage = "evaluate"
REPORT_EVERY = 4


@dataclass(frozen=True)
class Progress:
    """Where a render stands.

    stage: name of the running stage (an engine: `analyze`, then `synthesize`); fraction: 0..1 of the whole render,
    never falling; done, total: units inside the stage (frames), total 0 when unknown.
    """

    stage: JobStage
    fraction: float
    done: int = 0
    total: int = 0


ProgressHook = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """The hook for callers that need no progress."""


class ProgressReporter:
    """Reports the progress of several loops as one fraction, through the same hook as an engine.

    parts: how many long loops are expected. An exception that the hook raises ends the evaluation. Loops may run in
    several threads; the hook is called by one at a time.
    """

    def __init__(self, hook: ProgressHook, parts: int = 1) -> None:
        self._hook, self.parts = hook, parts
        self._lock = threading.Lock()
        self._stopped = False
        self._finished = 0
        self._fraction = 0.0

    def watch(self, items: Iterable[Item], total: int) -> Iterator[Item]:
        """Yields the items and reports how many of about `total` are done. The loop is one of the `parts`."""
        for done, item in enumerate(items, 1):
            yield item
            if done % REPORT_EVERY == 0:
                self._report(min(1.0, done / max(total, 1)), done, total)
        with self._lock:
            self._finished += 1
        self._report(0.0, total, total)

    def report_share(self, _share: float) -> None:
        """For work that is none of the `parts`: the fraction stays, the hook may end the evaluation."""
        self._report(0.0, 0, 0)

    def stop(self) -> None:
        """Running loops stop at their next progress report."""
        self._stopped = True

    def _report(self, share: float, done: int, total: int) -> None:
        if self._stopped:
            raise RenderCanceled("The evaluation was stopped.")
        with self._lock:
            # A loop more than expected must not make the fraction fall.
            self._fraction = max(self._fraction, min(1.0, (self._finished + share) / max(self.parts, 1)))
            self._hook(Progress(EVALUATE, self._fraction, done, total))


class StageClock:
    """Wall time by stage, seconds."""

    def __init__(self) -> None:
        self.times_s: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.times_s[name] = self.times_s.get(name, 0.0) + time.perf_counter() - start
