"""One file on its way from the wire into the object store: hashed, limited and recognised, in constant memory."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass

from api.bodies import too_large
from api.claims import Claim
from api.parts import Parts
from jobs.errors import ServiceError
from jobs.objects import ObjectWriter
from retalking_core.vocabulary.containers import (
    ACCEPTED,
    ACCEPTED_NAMES,
    HEAD_BYTES,
    KINDS,
    ContainerKind,
    InputSlot,
    describe,
    sniff,
)

# Chunks of the wire (64 kB) are joined to this before a thread writes them: 2 GB are 2,000 hops instead of 32,000.
FLUSH_BYTES = 1 << 20


@dataclass(frozen=True)
class StagedFile:
    """A file that lies whole in the object store."""

    key: str
    size_bytes: int
    sha256: str


class Intake:
    """Takes chunks with add(), ends with finish(), or seal() and commit(), or abandon(). Nothing is visible under the
    key before commit().

    slot: what the file is for; None: any container that some slot accepts.
    """

    def __init__(self, parts: Parts, claim: Claim, key: str, slot: InputSlot | None) -> None:
        self._parts = parts
        self._claim = claim
        self._key = key
        self._slot = slot
        self._max_bytes = parts.settings.max_upload_bytes
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._received = 0
        self._hash = hashlib.sha256()
        self._recognised = False
        self._context: AbstractContextManager[ObjectWriter] | None = None
        self._writer: ObjectWriter | None = None

    @property
    def name(self) -> str:
        return f"`{self._slot}` file" if self._slot else "file"

    @property
    def is_empty(self) -> bool:
        return self._received == 0

    async def add(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._received > self._max_bytes:
            raise too_large(self._max_bytes, self.name)
        self._pending.append(chunk)
        self._pending_bytes += len(chunk)
        if not self._recognised and self._received >= HEAD_BYTES:
            self._recognise()
        if self._pending_bytes >= FLUSH_BYTES:
            await self._flush()

    async def finish(self) -> StagedFile:
        staged = await self.seal()
        await self.commit()
        return staged

    async def seal(self) -> StagedFile:
        """Everything is received, checked and written; still nothing is visible."""
        if not self._received:
            raise ServiceError("file_empty", f"The {self.name} is empty.")
        if not self._recognised:
            self._recognise()
        await self._flush()
        return StagedFile(self._key, self._received, self._hash.hexdigest())

    async def commit(self) -> None:
        await self._parts.in_upload_thread(self._commit)
        self._parts.metrics.upload_bytes.inc(self._received)

    async def abandon(self) -> None:
        self._pending.clear()
        if self._context is not None:
            await self._parts.in_upload_thread(self._close)

    def _recognise(self) -> None:
        check_container(b"".join(self._pending)[:HEAD_BYTES], self._slot)
        self._recognised = True

    async def _flush(self) -> None:
        block, self._pending, self._pending_bytes = b"".join(self._pending), [], 0
        await self._parts.in_upload_thread(self._write, block)

    def _write(self, block: bytes) -> None:
        self._claim.add(len(block))
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


def check_container(head: bytes, slot: InputSlot | None) -> ContainerKind:
    """Raises container_unsupported where a file that begins so is of no use in this slot."""
    found = sniff(head)
    if found is not None and found in (ACCEPTED[slot] if slot else KINDS):
        return found
    what = f"a {found.name} file" if found else describe(head)[0]
    wanted = ACCEPTED_NAMES[slot] if slot else "a video, speech or picture file"
    name = f"`{slot}` file" if slot else "file"
    raise ServiceError("container_unsupported", f"The {name} is {what}. Send {wanted}.")
