"""Files on their way from the wire into the object store, and the storage that they reserve.

While files arrive they are an *arrival* in the job store: it is renewed as long as a request receives them, reserves
their bytes, and leads the janitor to them if the process dies.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass

import anyio
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from api.dependencies import Dependencies
from api.limits import too_large
from jobs.errors import ServiceError
from jobs.intake import check_container, is_job_list
from jobs.objects import ObjectWriter
from jobs.opening import storage_refusal
from jobs.store import ArrivalLostError, ByteQuota, StorageQuotaError
from retalking_core.vocabulary.containers import HEAD_BYTES, InputSlot

logger = logging.getLogger("retalking.api")

# Chunks of the wire (64 kB) are joined to blocks of this size before a thread writes them: 2 GB take 2,000 thread
# switches instead of 32,000.
FLUSH_BYTES = 1 << 20


class StorageReservation:
    """The bytes reserved for one arrival: reserved before they are written, exact afterwards.

    Synchronous: call it from threads, one call at a time.
    """

    def __init__(self, parts: Dependencies, arrival: str, quota: ByteQuota) -> None:
        self._parts, self._quota = parts, quota
        self.arrival = arrival
        self._reserved_bytes = 0
        self._used_bytes = 0

    def announce(self, size_bytes: int) -> None:
        """Reserve the announced size before the client sends it. Raises storage_full, storage_quota_exceeded."""
        self._parts.space.check(size_bytes)
        self._reserve(size_bytes)

    def add(self, size_bytes: int) -> None:
        """Reserve bytes that are about to be written. Raises storage_full, storage_quota_exceeded."""
        self._parts.space.check(size_bytes)
        self._used_bytes += size_bytes
        if self._used_bytes > self._reserved_bytes:
            self._reserve(self._used_bytes)

    def settle(self) -> None:
        """Release what was announced and not sent, once everything has arrived."""
        if self._reserved_bytes != self._used_bytes:
            self._reserve(self._used_bytes)

    def _reserve(self, size_bytes: int) -> None:
        with storage_refusals():
            self._parts.store.uploads.reserve(self.arrival, size_bytes, self._quota)
        self._reserved_bytes = size_bytes


@contextmanager
def storage_refusals() -> Iterator[None]:
    """Translates the quota errors of the job store into errors of the public table."""
    try:
        yield
    except StorageQuotaError as refusal:
        raise storage_refusal(is_owners=refusal.is_owners) from None
    except ArrivalLostError:
        raise arrival_lost() from None


def arrival_lost() -> ServiceError:
    return ServiceError("request_timeout", "The body took too long; what had arrived was discarded.")


@asynccontextmanager
async def tracked_arrival(parts: Dependencies, arrival: str) -> AsyncIterator[None]:
    """Register an arrival before its first byte is stored, and renew it meanwhile. After a crash the janitor removes
    its files; files of a slow request stay."""
    ttl_s = parts.settings.upload_ttl_s
    await run_in_threadpool(parts.store.uploads.add_arrival, arrival, ttl_s)
    renewal = asyncio.create_task(_renew(parts, arrival, ttl_s))
    try:
        yield
    finally:
        renewal.cancel()


async def _renew(parts: Dependencies, arrival: str, ttl_s: float) -> None:
    while True:
        await anyio.sleep(ttl_s / 3)
        try:
            await run_in_threadpool(parts.store.uploads.renew_arrival, arrival, ttl_s)
        except RedisError as error:
            logger.warning("Arrival %s was not renewed: %s", arrival, type(error).__name__)


def announced_bytes(request: Request) -> int:
    """Content-Length, or 0 without one."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isdigit() else 0


@dataclass(frozen=True)
class StagedFile:
    """A complete file in the object store."""

    key: str
    size_bytes: int
    sha256: str


class UploadStream:
    """Writes one file to the object store while it arrives: limited, hashed and sniffed, in constant memory.

    Call add() with each chunk, then finish(), or seal() and commit(); abandon() at any time. Nothing is visible under
    the key before commit(). slot: purpose of the file; None: any container that some slot accepts, or a list of jobs.
    part: its name in messages, where it is not the slot's.
    """

    def __init__(
        self, parts: Dependencies, reservation: StorageReservation, key: str, slot: InputSlot | None, part: str = ""
    ) -> None:
        self._parts = parts
        self._reservation = reservation
        self._key = key
        self._slot = slot
        self._part = part or slot
        self._max_bytes = parts.settings.max_upload_bytes
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._received = 0
        self._hash = hashlib.sha256()
        self._is_sniffed = False
        self._context: AbstractContextManager[ObjectWriter] | None = None
        self._writer: ObjectWriter | None = None

    @property
    def name(self) -> str:
        return f"`{self._part}` file" if self._part else "file"

    @property
    def is_empty(self) -> bool:
        return self._received == 0

    async def add(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._received > self._max_bytes:
            raise too_large(self._max_bytes, self.name)
        self._pending.append(chunk)
        self._pending_bytes += len(chunk)
        if not self._is_sniffed and self._received >= HEAD_BYTES:
            self._sniff()
        if self._pending_bytes >= FLUSH_BYTES:
            await self._flush()

    async def finish(self) -> StagedFile:
        staged = await self.seal()
        await self.commit()
        return staged

    async def seal(self) -> StagedFile:
        """Everything is received, checked and written, but not yet visible."""
        if not self._received:
            raise ServiceError("file_empty", f"The {self.name} is empty.")
        if not self._is_sniffed:
            self._sniff()
        await self._flush()
        return StagedFile(self._key, self._received, self._hash.hexdigest())

    async def commit(self) -> None:
        await self._parts.in_upload_thread(self._commit)
        self._parts.metrics.upload_bytes.inc(self._received)

    async def abandon(self) -> None:
        self._pending.clear()
        if self._context is not None:
            await self._parts.in_upload_thread(self._close)

    def _sniff(self) -> None:
        head = b"".join(self._pending)[:HEAD_BYTES]
        if self._slot is not None or not is_job_list(head):
            check_container(head, self._slot, self.name)
        self._is_sniffed = True

    async def _flush(self) -> None:
        block, self._pending, self._pending_bytes = b"".join(self._pending), [], 0
        await self._parts.in_upload_thread(self._write, block)

    def _write(self, block: bytes) -> None:
        self._reservation.add(len(block))
        if self._writer is None:
            self._context = self._parts.objects.writer(self._key)
            self._writer = self._context.__enter__()
        self._hash.update(block)
        self._writer.write(block)

    def _commit(self) -> None:
        if self._writer is not None:
            self._writer.commit()
        self._close()

    def _close(self) -> None:
        context, self._context, self._writer = self._context, None, None
        if context is not None:
            context.__exit__(None, None, None)
