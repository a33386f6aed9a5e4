"""HTTP on the wire, bounded before anybody has said who they are.

h11 instead of httptools, which uvicorn prefers where it is installed: h11 reads one request at a time, so pipelined
requests wait as the bytes that they are, and it ends a request whose head grows past a limit. httptools parses all that
has arrived and has no limit on heads (`bench/front_door.py`). What uvicorn leaves open is closed here: a head that
never ends, an answer that nobody reads, and connections without number.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# Request line and headers. Real ones have 1 to 4 kB; browsers and proxies send no more than 8 to 16.
MAX_HEAD_BYTES = 32 * 1024
# A connection that sends no whole head in this time, or goes on with a body after its answer, is closed.
HEAD_S = 20.0
# A connection whose peer reads nothing of an answer for this long is closed.
STALLED_S = 60.0


class BoundedProtocol(H11Protocol):
    """One connection. max_connections: of the process."""

    def __init__(self, *args: Any, max_connections: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_connections = max_connections
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self.waits_since_s = 0.0

    @property
    def is_waiting(self) -> bool:
        """Before the first request or between two: nothing is lost when it is closed."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._watch_head()
        if len(self.connections) > self._max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_timer = _stopped(self._head_timer)
        self._stall_timer = _stopped(self._stall_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._stall_timer = _stopped(self._stall_timer)
        super().resume_writing()

    def _watch_head(self) -> None:
        """The time runs from the first moment of waiting: bytes that drip do not prolong it."""
        if not self.is_waiting:
            self._head_timer = _stopped(self._head_timer)
        elif self._head_timer is None:
            self.waits_since_s = self.loop.time()
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.close)

    def _make_room(self) -> None:
        """Close the connection that has waited longest, so that idle ones keep nobody out. This new one waits too, so
        there is always one: where all others are in work, it is this."""
        live = [each for each in self.connections if not each.transport.is_closing()]
        if len(live) > self._max_connections:
            waiting = [each for each in live if each.is_waiting]
            min(waiting, key=lambda each: each.waits_since_s).transport.close()


def _stopped(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
