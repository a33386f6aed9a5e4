"""How many requests of a kind that stays open may be open at a time, of one owner and of all: submissions, event
streams, downloads.

Counted in this process, because its memory and its files are what they hold; a deployment of several API processes
allows as many in each. Only the event loop counts, so that no lock is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from starlette.types import Receive, Scope, Send

from jobs.errors import ServiceError

RETRY_AFTER_S = 2


class Places:
    """what: for the message. most_each: of one owner; of callers without a key most_total alone holds."""

    def __init__(self, what: str, most_each: int, most_total: int) -> None:
        self._what, self._most_each, self._most_total = what, most_each, most_total
        self._taken: Counter[str] = Counter()

    @contextmanager
    def take(self, owner: str) -> Iterator[None]:
        """Raises too_many_open."""
        if owner and self._taken[owner] >= self._most_each:
            raise self._refusal(f"This key has {self._most_each} {self._what} open, and may have no more at a time.")
        if self._taken.total() >= self._most_total:
            raise self._refusal(f"{self._most_total} {self._what} are open, and the service takes no more at a time.")
        self._taken[owner] += 1
        try:
            yield
        finally:
            self._taken[owner] -= 1
            if not self._taken[owner]:
                del self._taken[owner]

    def _refusal(self, message: str) -> ServiceError:
        return ServiceError("too_many_open", message, headers={"Retry-After": str(RETRY_AFTER_S)})


class HoldsPlace:
    """Mixed into a response: it holds a place for as long as it is being sent. A refusal comes before its first byte,
    so it is answered as one."""

    def hold(self, places: Places, owner: str) -> Self:
        self._places, self._owner = places, owner
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._places.take(self._owner):
            await super().__call__(scope, receive, send)
