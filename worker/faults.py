"""Exceptions of an attempt or a fetch -> public errors, and which of them are worth another attempt; retries of single
calls to the job store and the object store, which may be unreachable for a moment.

Needs no media library, since the webhook worker fetches inputs.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from celery.exceptions import SoftTimeLimitExceeded
from redis.exceptions import RedisError

from jobs.errors import ERROR_CODES, ServiceError, is_thread_shortage
from jobs.models import ErrorInfo
from jobs.objects import ObjectNotFoundError, ObjectStoreError, ObjectStoreFullError, ObjectTooLargeError
from retalking_core.errors import InputError, RetalkingError

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

# The first matching row decides. Messages of other libraries may contain paths and addresses: none is passed on.
_SENTENCES: tuple[tuple[type[BaseException], str, str], ...] = (
    (SoftTimeLimitExceeded, "render_timeout", "The render ran past the time that one attempt may take."),
    (ObjectNotFoundError, "storage_failed", "An input file of the job is no longer in the object store."),
    (ObjectStoreFullError, "storage_full", "The object store has no room for the job's files."),
    (ObjectStoreError, "storage_failed", "The object store did not take or give a file."),
)

# Codes that a part may report when its allocation was refused. A thread that cannot be started is a sign of it as well:
# its stack counts against the limit.
_MAY_BE_MEMORY = frozenset({"media_unreadable", "internal_error", "threads_exhausted"})


def describe_fault(fault: BaseException, *, is_memory_full: bool = False) -> ErrorInfo:
    """The public form of an exception: code, sentence, and whether a new submission can help.

    is_memory_full: the process was at its limit when the exception was caught.
    """
    info = _describe(fault)
    return _OUT_OF_MEMORY if is_memory_full and info.code in _MAY_BE_MEMORY else info


def _describe(fault: BaseException) -> ErrorInfo:
    # First: a full disk or memory may be the cause of another error, of the library that could not write its result.
    # Not of a full object store: that is about the disk of the store.
    if not isinstance(fault, ObjectStoreFullError) and any(
        isinstance(each, OSError) and each.errno in _DISK_FULL for each in (fault, fault.__cause__)
    ):
        return _info("disk_full", "The worker's disk is full.")
    # Not while an input is read: FFmpeg reports "no memory" for the sizes that a broken header requests.
    if not isinstance(fault, InputError) and any(isinstance(each, MemoryError) for each in (fault, fault.__cause__)):
        return _OUT_OF_MEMORY
    if _is_thread_shortage(fault):
        return _info("threads_exhausted", "The worker's machine could start no more threads.")
    if isinstance(fault, RetalkingError | ServiceError) and fault.code in ERROR_CODES:
        return _info(fault.code, fault.message)
    for kind, code, sentence in _SENTENCES:
        if isinstance(fault, kind):
            return _info(code, sentence)
    return _info("internal_error", "The job failed for a reason that is not the input's; the details are in the log.")


def is_transient(fault: BaseException) -> bool:
    """True if another attempt at the same job may succeed: object store unreachable, or threads exhausted."""
    return isinstance(fault, ObjectStoreError) or _is_thread_shortage(fault)


def _is_thread_shortage(fault: BaseException) -> bool:
    """Also inside the error of the library that could not write its result."""
    return any(is_thread_shortage(each) for each in (fault, fault.__cause__) if each is not None)


def is_unexpected(error: ErrorInfo) -> bool:
    """False for what the caller or the environment caused: one log line, no traceback."""
    return error.code in {"internal_error", "engine_fault"}


def _info(code: str, message: str) -> ErrorInfo:
    return ErrorInfo(code=code, message=message, retryable=ERROR_CODES[code].retryable)


_OUT_OF_MEMORY = _info("out_of_memory", "The worker ran out of memory.")


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
