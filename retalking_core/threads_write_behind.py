"""Encoding in a thread of its own, while the calling thread goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Queue
from types import TracebackType

from retalking_core.types import Frame


class WriteBehind:
    """Calls `write` for every frame, in order, in another thread; at most `depth` frames wait.

    The device is driven by the calling thread and the encoder by this one, not the other way round: CUDA libraries keep
    their plans for each thread, and a new thread for every job would make all of them anew (measured on an H200: 7 s).
    What `write` raises is raised by the next `put`, or on leaving the block; leaving it by an error drops what waits.
    """

    def __init__(self, write: Callable[[Frame], None], depth: int) -> None:
        self._write = write
        self._frames: Queue[Frame | None] = Queue(depth)
        self._failure: BaseException | None = None
        self._dropping = False
        self._thread = threading.Thread(target=self._work, name="write-behind", daemon=True)

    def __enter__(self) -> WriteBehind:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._dropping = kind is not None
        self._frames.put(None)
        self._thread.join()
        if kind is None and self._failure is not None:
            raise self._failure

    def put(self, frame: Frame) -> None:
        if self._failure is not None:
            raise self._failure
        self._frames.put(frame)

    def _work(self) -> None:
        """Takes frames to the end, also after a failure: nobody must wait for room that never comes."""
        while (frame := self._frames.get()) is not None:
            if self._failure is None and not self._dropping:
                try:
                    self._write(frame)
                except BaseException as error:  # handed over whole: the calling thread raises it
                    self._failure = error
