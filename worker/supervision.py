"""How a worker that is told to stop gets its job back into the line.

Celery's warm shutdown (SIGTERM) waits for the running task without limit. Its soft shutdown, on SIGQUIT or
REMAP_SIGTERM, waits for worker_soft_shutdown_timeout and kills the child, which learns of it by dying. Neither lets the
child hand its job back: the job would lie still until its lease runs out, and the attempt would count. Therefore the
parent notes a moment in memory that it shares with its children, and the render reads it between batches.

A SIGTERM that reaches the child itself (systemd signals every process of a service; Celery's hard time limit and cold
shutdown do too) becomes SystemExit there, billiard's doing: it runs through the render, and runner.py settles the job.
"""

from __future__ import annotations

import mmap
import struct
import time

_MOMENT = struct.Struct("d")


class HandBackError(Exception):
    """The worker is going down: the job goes back to the line, and the attempt does not count."""


class ShutdownNotice:
    """When running jobs must be handed back; one for a parent and the children it forks after making it.

    CLOCK_MONOTONIC is one clock for all processes of a machine, so its reading can be shared.
    """

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, _MOMENT.size)

    def give(self, grace_s: float) -> None:
        """The first call decides; a second signal does not move the moment."""
        if not self.is_given:
            self._page[:] = _MOMENT.pack(time.monotonic() + grace_s)

    @property
    def is_given(self) -> bool:
        return self._moment() > 0

    @property
    def is_due(self) -> bool:
        moment = self._moment()
        return 0 < moment <= time.monotonic()

    def _moment(self) -> float:
        return _MOMENT.unpack(self._page[:])[0]
