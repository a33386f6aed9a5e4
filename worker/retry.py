"""Retries of calls to the job store and the object store, which may be unreachable for a moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from redis.exceptions import RedisError

from jobs.objects import ObjectStoreError, ObjectTooLargeError

log = logging.getLogger(__name__)

T = TypeVar("T")


def retry_redis(call: Callable[[], T], limit_s: float = 60.0) -> T:
    """Repeat a call to the job store until Redis answers. Raises the last RedisError after `limit_s`.

    The store's transitions are idempotent, so a call whose answer was lost has no second effect.
    """
    deadline = time.monotonic() + limit_s
    pause_s = 0.2
    while True:
        try:
            return call()
        except RedisError as fault:
            if time.monotonic() + pause_s > deadline:
                raise
            log.warning("job store unreachable: %s", type(fault).__name__)
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 5.0)


def retry_storage(call: Callable[[], T], pauses_s: Sequence[float], wait: Callable[[float], None]) -> T:
    """Repeat a call to the object store after each of the pauses. Raises the last ObjectStoreError.

    wait: sleeps, and raises if the work must stop.
    """
    for pause_s in pauses_s:
        try:
            return call()
        except ObjectTooLargeError:
            raise
        except ObjectStoreError as fault:
            log.warning("object store failed, retrying in %s s: %s", pause_s, type(fault).__name__)
            wait(pause_s)
    return call()
