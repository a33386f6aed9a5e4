"""Decoding, drawing and encoding at the same time, in order, with a bounded number of pictures in flight."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

from retalking_core.types import Frame, FrameSource, VideoInfo

Item = TypeVar("Item")
_POLL_S = 0.1


class ReadAhead(Generic[Item]):
    """Iterates over `items` in a thread of its own, at most `depth` items ahead of the consumer.

    What the producer raises is raised to the consumer. `close` (or leaving the `with` block) stops the producer at its
    next item and waits for it; a generator given as `items` is closed in the thread that ran it.
    """

    def __init__(self, items: Iterable[Item], depth: int = 4) -> None:
        self._queue: Queue[tuple[str, object]] = Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._produce, args=(items,), name="read-ahead", daemon=True)
        self._thread.start()

    def __enter__(self) -> ReadAhead[Item]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Item]:
        while True:
            kind, value = self._queue.get()
            if kind == "item":
                yield value
            elif kind == "error":
                raise value
            else:
                return

    def close(self) -> None:
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=_POLL_S)
            except Empty:
                continue

    def _produce(self, items: Iterable[Item]) -> None:
        ending: tuple[str, object] = ("end", None)
        try:
            for item in items:
                if not self._put(("item", item)):
                    break
        except BaseException as error:  # handed over whole: the consumer raises it
            ending = ("error", error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
        self._put(ending)

    def _put(self, message: tuple[str, object]) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(message, timeout=_POLL_S)
                return True
            except Full:
                continue
        return False


class PrefetchedSource:
    """A `FrameSource` whose frames are decoded in another thread while the last one is looked at."""

    def __init__(self, source: FrameSource, depth: int = 4) -> None:
        self._source, self._depth = source, depth
        self.info: VideoInfo = source.info

    def frames(self) -> Iterator[Frame]:
        return self._ahead(self._source.frames())

    def frames_at(self, indices: Sequence[int]) -> Iterator[Frame]:
        return self._ahead(self._source.frames_at(indices))

    def _ahead(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        with ReadAhead(frames, self._depth) as ahead:
            yield from ahead


class KeptSource:
    """A `FrameSource` that decodes each frame once, where all of them fit into `max_bytes`; else it keeps nothing.

    Seeking the face, following it, looking for an open mouth and drawing each read the clip again otherwise.
    """

    def __init__(self, source: FrameSource, max_bytes: int) -> None:
        self._source = source
        self.info: VideoInfo = source.info
        frame_bytes = self.info.width * self.info.height * 3 // 2
        self._may_keep = self.info.frame_count * frame_bytes <= max_bytes
        self._kept: dict[int, Frame] = {}

    def frames(self) -> Iterator[Frame]:
        return self.frames_at(range(self.info.frame_count))

    def frames_at(self, indices: Sequence[int]) -> Iterator[Frame]:
        wanted = [int(index) for index in indices]
        if not self._may_keep:
            yield from self._source.frames_at(wanted)
            return
        missing = [index for index in dict.fromkeys(wanted) if index not in self._kept]
        fresh = self._source.frames_at(missing)
        try:
            for index in wanted:
                if index not in self._kept:
                    frame = next(fresh)
                    self._kept[frame.index] = frame
                yield self._kept[index]
        finally:
            fresh.close()


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
