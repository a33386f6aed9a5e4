"""Calls to what may be away for a moment: the job store and the object store."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from redis.exceptions import RedisError

from jobs.objects import ObjectStoreError, ObjectTooLargeError

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


def patiently(call: Callable[[], Answer], limit_s: float = 60.0) -> Answer:
    """A call to the job store that outlasts a restart of Redis. Raises the last RedisError after `limit_s`.

    The store's transitions know a repeated call, so one whose answer got lost is not done twice.
    """
    until = time.monotonic() + limit_s
    pause_s = 0.2
    while True:
        try:
            return call()
        except RedisError as fault:
            if time.monotonic() + pause_s > until:
                raise
            log.warning("the job store did not answer: %s", type(fault).__name__)
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 5.0)


def insist(call: Callable[[], Answer], pauses_s: Sequence[float], wait: Callable[[float], None]) -> Answer:
    """A call to the object store, repeated after each of the pauses. Raises the last ObjectStoreError.

    wait: sleeps, and raises where the work is to stop.
    """
    for pause_s in pauses_s:
        try:
            return call()
        except ObjectTooLargeError:
            raise
        except ObjectStoreError as fault:
            log.warning("the object store failed, again in %s s: %s", pause_s, type(fault).__name__)
            wait(pause_s)
    return call()
