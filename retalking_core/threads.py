"""Threads of a render: producers that run ahead, the encoder's own thread, OpenCV's pool."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
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
