"""Threads of a render: producers that run ahead, the encoder's own thread, turns of an engine, OpenCV's pool."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import Queue, SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar

import cv2

from retalking_core.types import Frame

Item = TypeVar("Item")


class ReadAhead(Generic[Item]):
    """Iterates over `items` in a thread of its own, at most `depth` items ahead of the consumer.

    What the producer raises is raised to the consumer. `close` (or leaving the `with` block) stops the producer at its
    next item and waits for it; a generator given as `items` is closed in the thread that ran it.
    """

    def __init__(self, items: Iterable[Item], depth: int = 4) -> None:
        # Room for an item is a token that goes back and forth: both queues wait without the interpreter's lock, and
        # no thread polls to see whether to stop.
        self._room: SimpleQueue[None] = SimpleQueue()
        self._made: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._stopped = False
        for _ in range(depth):
            self._room.put(None)
        self._thread = threading.Thread(target=self._produce, args=(items,), name="read-ahead", daemon=True)
        self._thread.start()

    def __enter__(self) -> ReadAhead[Item]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Item]:
        while True:
            kind, value = self._made.get()
            if kind == "item":
                self._room.put(None)
                yield value
            elif kind == "error":
                raise value
            else:
                return

    def close(self) -> None:
        self._stopped = True
        self._room.put(None)
        self._thread.join()

    def _produce(self, items: Iterable[Item]) -> None:
        ending: tuple[str, Any] = ("end", None)
        try:
            for item in items:
                self._room.get()
                if self._stopped:
                    break
                self._made.put(("item", item))
        except BaseException as error:  # handed over whole: the consumer raises it
            ending = ("error", error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
        self._made.put(ending)


class EncoderThread:
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

    def __enter__(self) -> EncoderThread:
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
        """Takes frames to the end, also after a failure: `put` must not block forever."""
        while (frame := self._frames.get()) is not None:
            if self._failure is None and not self._dropping:
                try:
                    self._write(frame)
                except BaseException as error:  # handed over whole: the calling thread raises it
                    self._failure = error


def disable_opencv_threads() -> None:
    """Every call in the thread that makes it, for the whole process.

    Decoding, drawing and encoding run side by side in threads of their own, on small pictures; OpenCV's workers only
    wait for each other there. Drawing a 700x700 frame on two cores: 11.0 ms of CPU time with them, 8.2 ms without.
    """
    cv2.setNumThreads(1)


# Without a job for this long, an engine counts as idle.
IDLE_S = 2.0
# Work between jobs that waited this long for an idle engine takes the next gap, however short.
PATIENCE_S = 10.0
WAIT_S = 0.2


class Turns:
    """Jobs of an engine, and work that has to be done while none runs. Each takes its turn; neither is interrupted."""

    def __init__(self, idle_s: float = IDLE_S, patience_s: float = PATIENCE_S) -> None:
        self._idle_s, self._patience_s = idle_s, patience_s
        self._changed = threading.Condition()
        self._is_taken = self._is_due = False
        self._waiting_jobs = 0
        self._last_job_s = -math.inf

    @contextmanager
    def job(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """The turn of a job. waiting: called several times a second until it begins; what it raises ends the wait."""
        self._waiting_jobs += 1
        try:
            while not self._take(lambda: not self._is_due):
                waiting()
        finally:
            self._waiting_jobs -= 1
        try:
            yield
        finally:
            self._last_job_s = time.monotonic()
            self._release()

    @contextmanager
    def between_jobs(self, is_over: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """The turn of something else, once no job has run for a while; False, without a turn, if `is_over` says so
        first."""
        patient_until_s = time.monotonic() + self._patience_s
        try:
            while not (ended := is_over()) and not self._take(lambda: self._is_due or self._is_idle):
                self._is_due = time.monotonic() >= patient_until_s
        finally:
            self._is_due = False
        if ended:
            yield False
            return
        try:
            yield True
        finally:
            self._release()

    @property
    def _is_idle(self) -> bool:
        return not self._waiting_jobs and time.monotonic() - self._last_job_s >= self._idle_s

    def _take(self, may: Callable[[], bool]) -> bool:
        with self._changed:
            taken = self._changed.wait_for(lambda: not self._is_taken and may(), WAIT_S)
            self._is_taken |= taken
            return taken

    def _release(self) -> None:
        with self._changed:
            self._is_taken = False
            self._changed.notify_all()
