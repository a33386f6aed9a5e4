"""When the parent of a render worker last asked the broker for work.

That its child reports to the store shows that the child lives. A parent that hangs, or whose connection is dead without
its noticing, takes no job all the same; so the moment of its last question goes along with the child's report. It lies
in memory that both share, as the shutdown notice does.
"""

from __future__ import annotations

import mmap
import struct
import time
from datetime import UTC, datetime

_MOMENT = struct.Struct("d")


class PollStamp:
    """One for a parent and the children it forks after making it."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, _MOMENT.size)

    def mark(self) -> None:
        self._page[:] = _MOMENT.pack(time.time())

    @property
    def at(self) -> datetime | None:
        """None before the first question."""
        moment = _MOMENT.unpack(self._page[:])[0]
        return datetime.fromtimestamp(moment, UTC) if moment else None
