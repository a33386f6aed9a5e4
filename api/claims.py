"""What a submission or an upload takes of the storage: reserved before it is written, exact when it is there.

While files arrive they are an arrival in the job store. It is renewed for as long as somebody receives them, holds
their bytes, and leads the janitor to them where the process dies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from api.parts import Parts
from jobs.errors import ServiceError
from jobs.free_space import storage_refusal
from jobs.store import ArrivalLostError, ByteQuota, StorageQuotaError

logger = logging.getLogger("retalking.api")


class Claim:
    """The bytes of one arrival. Synchronous, so to be called from threads, one at a time."""

    def __init__(self, parts: Parts, arrival: str, quota: ByteQuota) -> None:
        self._parts, self._quota = parts, quota
        self.arrival = arrival
        self._reserved_bytes = 0
        self._used_bytes = 0

    def announce(self, size_bytes: int) -> None:
        """So much is said to come. Raises storage_full, storage_quota_exceeded: before it is sent."""
        self._parts.space.check(size_bytes)
        self._reserve(size_bytes)

    def add(self, size_bytes: int) -> None:
        """So much is about to be written. Raises storage_full, storage_quota_exceeded."""
        self._parts.space.check(size_bytes)
        self._used_bytes += size_bytes
        if self._used_bytes > self._reserved_bytes:
            self._reserve(self._used_bytes)

    def settle(self) -> None:
        """Everything is there: what was announced and did not come is free again."""
        if self._reserved_bytes != self._used_bytes:
            self._reserve(self._used_bytes)

    def _reserve(self, size_bytes: int) -> None:
        with refusing_lack_of_storage():
            self._parts.store.reserve(self.arrival, size_bytes, self._quota)
        self._reserved_bytes = size_bytes


@contextmanager
def refusing_lack_of_storage() -> Iterator[None]:
    try:
        yield
    except StorageQuotaError as refusal:
        raise storage_refusal(is_owners=refusal.is_owners) from None
    except ArrivalLostError:
        raise given_up() from None


def given_up() -> ServiceError:
    return ServiceError("request_timeout", "The body took so long that what had arrived of it was given up.")


@asynccontextmanager
async def arriving(parts: Parts, arrival: str) -> AsyncIterator[None]:
    """Note that files arrive, before the first byte is stored: a crash from here on leaves nothing that the janitor
    would not find. Renewed meanwhile, so that the janitor takes nothing away that is only slow."""
    ttl_s = parts.settings.upload_ttl_s
    await run_in_threadpool(parts.store.add_arrival, arrival, ttl_s)
    renewal = asyncio.create_task(_renew(parts, arrival, ttl_s))
    try:
        yield
    finally:
        renewal.cancel()


async def _renew(parts: Parts, arrival: str, ttl_s: float) -> None:
    while True:
        await anyio.sleep(ttl_s / 3)
        try:
            await run_in_threadpool(parts.store.renew_arrival, arrival, ttl_s)
        except RedisError as error:
            logger.warning("%s was not renewed: %s", arrival, type(error).__name__)


def announced_bytes(request: Request) -> int:
    """0 where the length is not said."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isdigit() else 0
