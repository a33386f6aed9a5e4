"""Interface of the object store (bytes under keys), which jobs/local_objects.py and jobs/s3_objects.py implement, and
the keys that both accept."""

from __future__ import annotations

import re
import secrets
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

MAX_KEY_CHARS = 512
COPY_CHUNK_BYTES = 1 << 20
# No segment starts with a dot: no `..`, no hidden file. No backslash, colon, control or non-ASCII character.
_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_KEY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_PREFIX = re.compile(rf"(?:{_SEGMENT}/)*(?:{_SEGMENT})?")


class ObjectNotFoundError(LookupError):
    """No object under this key."""


class ObjectStoreError(Exception):
    """The store is unreachable, refused, or broke off. Transient faults were already retried."""


class ObjectStoreFullError(ObjectStoreError):
    """The store is full. Reading and deleting still work."""


class ObjectTooLargeError(ObjectStoreError):
    """The object exceeds the size that the caller allows."""


class InvalidKeyError(ValueError):
    """Not a valid object key: a bug, or an attack, because keys are made from ids (jobs/names.py)."""


@dataclass(frozen=True)
class ObjectInfo:
    size_bytes: int
    content_type: str


class ObjectWriter(Protocol):
    """Streams one object in constant memory. Nothing is visible under the key before commit(); leaving the `with`
    block without commit() discards it."""

    def write(self, chunk: bytes) -> None: ...

    def commit(self) -> ObjectInfo: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class ObjectStore(Protocol):
    def writer(self, key: str, content_type: str = "application/octet-stream") -> ObjectWriter: ...

    def put_file(self, key: str, path: Path, content_type: str) -> ObjectInfo:
        with path.open("rb") as source, self.writer(key, content_type) as writer:
            while chunk := source.read(COPY_CHUNK_BYTES):
                writer.write(chunk)
            return writer.commit()

    def fetch(self, key: str, path: Path, max_bytes: int | None = None) -> ObjectInfo:
        """Write the object to `path`, whole or not at all.

        Raises ObjectNotFoundError, ObjectTooLargeError (over max_bytes), ObjectStoreError; OSError if `path` cannot be
        written.
        """
        info = self.info(key)
        if max_bytes is not None and info.size_bytes > max_bytes:
            raise ObjectTooLargeError(f"{key} has {info.size_bytes} bytes; {max_bytes} are allowed")
        part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
        try:
            with part.open("xb") as target:
                target.writelines(self.read(key, 0, info.size_bytes, COPY_CHUNK_BYTES))
                if target.tell() != info.size_bytes:
                    raise ObjectStoreError(f"{key}: received {target.tell()} of {info.size_bytes} bytes")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return info

    def read(self, key: str, start: int = 0, end: int | None = None, chunk_bytes: int = 1 << 18) -> Iterator[bytes]:
        """Bytes start..end (end exclusive; None: to the end) in chunks. Raises ObjectNotFoundError at the call."""
        ...

    def info(self, key: str) -> ObjectInfo:
        """Raises ObjectNotFoundError."""
        ...

    def copy(self, source: str, target: str) -> ObjectInfo: ...

    def delete(self, key: str) -> None:
        """Deleting an object that does not exist is not an error."""
        ...

    def delete_prefix(self, prefix: str) -> int:
        """Number of objects deleted."""
        ...

    def list_keys(self, prefix: str) -> Iterator[str]: ...

    def presign_get(self, key: str, expires_s: int, download_name: str) -> str | None:
        """A link that serves the object directly; None if this store has no such links (the API then streams it)."""
        ...

    def presign_put(self, key: str, expires_s: int) -> str | None:
        """A link that accepts a PUT; None if this store has no such links (the API then signs one of its own)."""
        ...

    def check(self) -> None:
        """Raises ObjectStoreError if objects cannot be written (for /readyz)."""
        ...


def checked_key(key: str) -> str:
    if len(key) > MAX_KEY_CHARS or not _KEY.fullmatch(key):
        raise InvalidKeyError(f"{key[:80]!r} is not an object key")
    return key


def checked_prefix(prefix: str) -> str:
    """A prefix for listing; '' lists everything."""
    if len(prefix) > MAX_KEY_CHARS or not _PREFIX.fullmatch(prefix):
        raise InvalidKeyError(f"{prefix[:80]!r} is not a prefix of object keys")
    return prefix


def checked_folder(prefix: str) -> str:
    """A prefix for deleting: ends with a slash, so that jobs/1 never includes jobs/12, and is not empty."""
    if not prefix.endswith("/"):
        raise InvalidKeyError(f"{prefix[:80]!r} is not a folder of keys; it must end with a slash")
    return checked_prefix(prefix)


def attachment_header(download_name: str) -> str:
    """Content-Disposition of a file name (RFC 6266): an ASCII form, and the exact name if that differs."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", download_name) or "download"
    exact = "" if plain == download_name else f"; filename*=UTF-8''{urllib.parse.quote(download_name, safe='')}"
    return f'attachment; filename="{plain}"{exact}'
