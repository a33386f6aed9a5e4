"""How a running evaluation speaks: through the same hook as an engine, so that it can be watched and stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

from retalking_core.errors import RenderCanceled
from retalking_core.progress import Progress, ProgressHook

Item = TypeVar("Item")
STAGE = "evaluate"
REPORT_EVERY = 4


class EvaluationSteps:
    """parts: how many long loops are to come (an estimate). What the hook raises ends the evaluation. Loops may run
    side by side; the hook is called by one at a time."""

    def __init__(self, hook: ProgressHook, parts: int = 1) -> None:
        self._hook, self.parts = hook, parts
        self._turn = threading.Lock()
        self._stopped = False
        self._over = 0
        self._fraction = 0.0

    def watch(self, items: Iterable[Item], total: int) -> Iterator[Item]:
        """The items, telling how many of about `total` were worked on; one part of the whole is then over."""
        for done, item in enumerate(items, 1):
            yield item
            if done % REPORT_EVERY == 0:
                self._tell(min(1.0, done / max(total, 1)), done, total)
        with self._turn:
            self._over += 1
        self._tell(0.0, total, total)

    def stop(self) -> None:
        """Whatever still runs ends at its next word."""
        self._stopped = True

    def _tell(self, share: float, done: int, total: int) -> None:
        if self._stopped:
            raise RenderCanceled("The evaluation was stopped.")
        with self._turn:
            # A loop more than was foreseen must not make the fraction fall.
            self._fraction = max(self._fraction, min(1.0, (self._over + share) / max(self.parts, 1)))
            self._hook(Progress(STAGE, self._fraction, done, total))
