"""How long the device works on each step, without waiting for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class DeviceClock:
    """Seconds by step: of a GPU between two events in its own queue, elsewhere by the wall.

    Add up a batch with `collect` once its work is done; what was started later is left for the next call.
    """

    def __init__(self, device: torch.device) -> None:
        self.times_s: dict[str, float] = {}
        self._on_gpu = device.type == "cuda"
        self._running: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        if not self._on_gpu:
            began = time.perf_counter()
            try:
                yield
            finally:
                self._add(name, time.perf_counter() - began)
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        yield
        last.record()
        self._running.append((name, first, last))

    def collect(self) -> None:
        while self._running and self._running[0][2].query():
            name, first, last = self._running.pop(0)
            self._add(name, first.elapsed_time(last) / 1000)

    def _add(self, name: str, seconds: float) -> None:
        self.times_s[name] = self.times_s.get(name, 0.0) + seconds
