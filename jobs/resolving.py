"""Looking up the host names that callers give, with a deadline, and so that one caller's names hold up nobody else's.

`getaddrinfo` can neither be bounded nor canceled: a name whose servers never answer holds its thread for as long as the
resolver of the system is patient (5 to 40 s). So each lookup has a daemon thread of its own, at most `slots` at a time
and `per_owner` for one owner; what waits for a thread waits in its owner's line, and owners take turns.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

LOOKUP_S = 5.0
SLOTS = 32
PER_OWNER = 4
# Waiting lookups of one owner; a submission has three at most, one after the other.
LINE_LIMIT = 256

Rows = list[Any]


class LookupTimeoutError(Exception):
    """The name was not resolved in time."""


@dataclass(frozen=True)
class _Asked:
    host: str
    port: int
    future: Future[Rows]


class Resolver:
    """lookup: as socket.getaddrinfo; None: that. Thread-safe. Raises OSError and UnicodeError as the lookup does."""

    def __init__(
        self,
        *,
        slots: int = SLOTS,
        per_owner: int = PER_OWNER,
        deadline_s: float = LOOKUP_S,
        lookup: Callable[..., Rows] | None = None,
    ) -> None:
        self._slots = slots
        self._per_owner = per_owner
        self._deadline_s = deadline_s
        self._lookup = lookup
        self._lock = threading.Lock()
        self._lines: dict[str, deque[_Asked]] = {}
        self._busy: Counter[str] = Counter()

    def resolve(self, host: str, port: int, owner: str, limit_s: float | None = None) -> Rows:
        """Blocks for min(limit_s, the deadline) at most. Raises LookupTimeoutError."""
        future = self._ask(host, port, owner)
        try:
            return future.result(self._deadline_s if limit_s is None else max(0.0, min(limit_s, self._deadline_s)))
        except FutureTimeoutError:
            raise LookupTimeoutError(host) from None
        finally:
            future.cancel()

    async def resolve_async(self, host: str, port: int, owner: str) -> Rows:
        """The same without holding a thread of the caller's."""
        future = self._ask(host, port, owner)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._deadline_s)
        except TimeoutError:
            raise LookupTimeoutError(host) from None

    def busy(self, owner: str) -> int:
        """Lookups under way for an owner, given up or not."""
        with self._lock:
            return self._busy.get(owner, 0)

    def _ask(self, host: str, port: int, owner: str) -> Future[Rows]:
        asked = _Asked(host, port, Future())
        with self._lock:
            line = self._lines.setdefault(owner, deque())
            if len(line) >= LINE_LIMIT:
                raise LookupTimeoutError(host)
            line.append(asked)
            self._start_waiting()
        return asked.future

    def _start_waiting(self) -> None:
        """Give free slots to the first in each line, owners in turn. The lock is held."""
        started = True
        while started:
            started = False
            for owner in list(self._lines):
                if sum(self._busy.values()) >= self._slots:
                    return
                asked = self._next_of(owner)
                if asked is not None:
                    self._busy[owner] += 1
                    threading.Thread(target=self._run, args=(owner, asked), name="lookup", daemon=True).start()
                    started = True

    def _next_of(self, owner: str) -> _Asked | None:
        """The owner's line moves behind those of the others. What nobody waits for any more is dropped."""
        line = self._lines.pop(owner)
        while line and line[0].future.cancelled():
            line.popleft()
        asked = line.popleft() if line and self._busy.get(owner, 0) < self._per_owner else None
        if line:
            self._lines[owner] = line
        return asked

    def _run(self, owner: str, asked: _Asked) -> None:
        try:
            if asked.future.set_running_or_notify_cancel():
                lookup = self._lookup or socket.getaddrinfo
                asked.future.set_result(lookup(asked.host, asked.port, type=socket.SOCK_STREAM))
        except BaseException as fault:
            asked.future.set_exception(fault)
        finally:
            with self._lock:
                self._busy[owner] -= 1
                if not self._busy[owner]:
                    del self._busy[owner]
                self._start_waiting()
