"""Working ahead in another thread, in order, a bounded number of items."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")


class ReadAhead(Generic[Item]):
    """Iterates over `items` in a thread of its own, at most `depth` items ahead of the consumer.

    What the producer raises is raised to the consumer. `close` (or leaving the `with` block) stops the producer at its
    next item and waits for it; a generator given as `items` is closed in the thread that ran it.
    """

    def __init__(self, items: Iterable[Item], depth: int = 4) -> None:
        # Room for an item is a token that goes back and forth: both queues wait without the interpreter's lock, and
        # nobody has to wake up now and then to see whether to stop.
        self._room: SimpleQueue[None] = SimpleQueue()
        self._made: SimpleQueue[tuple[str, object]] = SimpleQueue()
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
        ending: tuple[str, object] = ("end", None)
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
