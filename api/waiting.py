"""Calls that wait for a job (`Prefer: wait`, RFC 7240), and event streams: woken by notifications of the job store.

One thread and one Redis connection a process listen for the changes of all jobs. A call that waits is a coroutine, so
thousands of them cost memory, and no thread.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
from redis.exceptions import RedisError

from jobs.store import JobStore

logger = logging.getLogger("retalking.api")

MAX_WAIT_S = 60
# The store was unreachable: the time until the next try
RECONNECT_S = 1.0
_WAIT = re.compile(r'wait\s*=\s*"?(\d{1,9})"?', re.IGNORECASE)


def preferred_wait_s(headers: Sequence[str]) -> int | None:
    """Seconds of the preference `wait`, at most MAX_WAIT_S; None if there is none. A preference that is malformed is
    ignored, and of several the first counts (RFC 7240, section 2). headers: all Prefer lines."""
    for preference in ",".join(headers).split(","):
        if match := _WAIT.fullmatch(preference.partition(";")[0].strip()):
            return min(MAX_WAIT_S, int(match[1]))
    return None


@dataclass(eq=False)
class Watch:
    """Wakes one coroutine. ends_only: events of a job that goes on do not wake it."""

    ends_only: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def notify(self, is_live: bool) -> None:
        if not (is_live and self.ends_only):
            self._changed.set()

    async def wait(self, at_most_s: float) -> None:
        """Until the job changed, perhaps before the call, or the time has passed."""
        with anyio.move_on_after(at_most_s):
            await self._changed.wait()
        self._changed.clear()


class JobChanges:
    """Distributes the notifications of the store. Used by the event loop alone, apart from its own thread."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._watches: dict[str, set[Watch]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_closing = False

    @contextmanager
    def watch(self, job_id: str, *, ends_only: bool = False) -> Iterator[Watch]:
        """Read the job inside the block: what changed before is not notified."""
        if self._loop is None:
            loop = asyncio.get_running_loop()
            threading.Thread(target=self._listen, args=(loop,), name="job-changes", daemon=True).start()
            self._loop = loop
        watch = Watch(ends_only)
        self._watches.setdefault(job_id, set()).add(watch)
        try:
            yield watch
        finally:
            self._watches[job_id].discard(watch)
            if not self._watches[job_id]:
                del self._watches[job_id]

    def close(self) -> None:
        """The process stops: waiting calls answer now. Callable from a signal handler."""
        self.is_closing = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._notify_all)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        while not loop.is_closed():
            try:
                for change in self._store.jobs.changes():
                    if change is None:
                        loop.call_soon_threadsafe(self._notify_all)
                    elif change[0] in self._watches:
                        loop.call_soon_threadsafe(self._notify, *change)
            except RedisError as error:
                logger.warning("Notifications of jobs are interrupted: %s", type(error).__name__)
                time.sleep(RECONNECT_S)
            except RuntimeError:  # the loop closed meanwhile
                return

    def _notify(self, job_id: str, is_live: bool) -> None:
        for watch in self._watches.get(job_id, ()):
            watch.notify(is_live)

    def _notify_all(self) -> None:
        """Some notifications may have been missed."""
        for watches in self._watches.values():
            for watch in watches:
                watch.notify(is_live=False)
