"""DNS lookups of host names that callers submit, with a deadline, and fair among callers.

`getaddrinfo` can neither be bounded nor canceled: a name whose servers never answer blocks its thread until the system
resolver times out (5 to 40 s). So each lookup has a daemon thread of its own, at most `slots` at a time and `per_owner`
for one owner; further lookups wait in a queue per owner, and owners take turns.
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
# Queued lookups of one owner; a submission makes one after the other.
QUEUE_LIMIT = 256

Rows = list[Any]


class LookupTimeoutError(Exception):
    """The name was not resolved in time."""


@dataclass(frozen=True)
class _Lookup:
    host: str
    port: int
    future: Future[Rows]


class Resolver:
    """Thread-safe. lookup: replaces socket.getaddrinfo, whose OSError and UnicodeError are passed on."""

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
        self._queues: dict[str, deque[_Lookup]] = {}
        self._busy: Counter[str] = Counter()

    def resolve(self, host: str, port: int, owner: str, limit_s: float | None = None) -> Rows:
        """Blocks for at most min(limit_s, the deadline). Raises LookupTimeoutError."""
        future = self._ask(host, port, owner)
        try:
            return future.result(self._deadline_s if limit_s is None else max(0.0, min(limit_s, self._deadline_s)))
        except FutureTimeoutError:
            raise LookupTimeoutError(host) from None
        finally:
            future.cancel()

    async def resolve_async(self, host: str, port: int, owner: str) -> Rows:
        """resolve() without blocking a thread of the caller."""
        future = self._ask(host, port, owner)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._deadline_s)
        except TimeoutError:
            raise LookupTimeoutError(host) from None

    def busy(self, owner: str) -> int:
        """Running lookups of an owner, including those whose caller gave up."""
        with self._lock:
            return self._busy.get(owner, 0)

    def _ask(self, host: str, port: int, owner: str) -> Future[Rows]:
        lookup = _Lookup(host, port, Future())
        with self._lock:
            queue = self._queues.setdefault(owner, deque())
            if len(queue) >= QUEUE_LIMIT:
                raise LookupTimeoutError(host)
            queue.append(lookup)
            self._start_waiting()
        return lookup.future

    def _start_waiting(self) -> None:
        """Start the first lookup of each queue while slots are free, owners in turn. The lock is held."""
        started = True
        while started:
            started = False
            for owner in list(self._queues):
                if sum(self._busy.values()) >= self._slots:
                    return
                lookup = self._next_of(owner)
                if lookup is not None:
                    self._busy[owner] += 1
                    threading.Thread(target=self._run, args=(owner, lookup), name="lookup", daemon=True).start()
                    started = True

    def _next_of(self, owner: str) -> _Lookup | None:
        """Moves the owner's queue behind the others. Lookups whose caller gave up are dropped."""
        queue = self._queues.pop(owner)
        while queue and queue[0].future.cancelled():
            queue.popleft()
        lookup = queue.popleft() if queue and self._busy.get(owner, 0) < self._per_owner else None
        if queue:
            self._queues[owner] = queue
        return lookup

    def _run(self, owner: str, lookup: _Lookup) -> None:
        try:
            if lookup.future.set_running_or_notify_cancel():
                resolve = self._lookup or socket.getaddrinfo
                lookup.future.set_result(resolve(lookup.host, lookup.port, type=socket.SOCK_STREAM))
        except BaseException as fault:
            lookup.future.set_exception(fault)
        finally:
            with self._lock:
                self._busy[owner] -= 1
                if not self._busy[owner]:
                    del self._busy[owner]
                self._start_waiting()
