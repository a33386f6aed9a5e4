"""Object store in a local folder: the default on one machine.

root/files/<key> holds the bytes, root/types/<key> the content type, root/new/ unfinished writes. Files are never
changed in place, only replaced, so a reader keeps the object that it opened.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self

from jobs.objects import (
    ObjectInfo,
    ObjectNotFoundError,
    ObjectStore,
    ObjectStoreError,
    ObjectStoreFullError,
    checked_folder,
    checked_key,
    checked_prefix,
)

# An unfinished write of this age belongs to a process that died
LEFTOVER_AGE_S = 86400
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def _os_errors_named(key: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ObjectNotFoundError(f"There is no object {key}") from None
    except OSError as error:
        if error.errno in _FULL:
            raise ObjectStoreFullError(f"{key}: the object store's disk is full") from error
        raise ObjectStoreError(f"{key}: {error.strerror or error}") from error


class LocalObjectWriter:
    """Writes to root/new/, then moves the finished file to its key."""

    def __init__(self, store: LocalObjectStore, key: str, content_type: str) -> None:
        self._store, self._key, self._content_type = store, key, content_type
        with _os_errors_named(key):
            store.keep_space_free()
            self._path = store.new_path()
            self._file: BinaryIO | None = self._path.open("xb")

    def write(self, chunk: bytes) -> None:
        if self._file is None:
            raise ValueError("The writer is closed")
        with _os_errors_named(self._key):
            self._file.write(chunk)

    def commit(self) -> ObjectInfo:
        if self._file is None:
            raise ValueError("The writer is closed")
        with _os_errors_named(self._key):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
            return self._store.publish(self._path, self._key, self._content_type)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            with suppress(OSError):  # flushes its buffer, which fails on a full disk
                self._file.close()
            self._file = None
        self._path.unlink(missing_ok=True)


class LocalObjectStore(ObjectStore):
    """Implements jobs.objects.ObjectStore on a folder. Several processes may share it."""

    def __init__(self, root: Path, keep_free_bytes: int = 0) -> None:
        """keep_free_bytes: below this much free space nothing is written: a full disk would stop Redis."""
        self._keep_free_bytes = keep_free_bytes
        self._files, self._types, self._new = root / "files", root / "types", root / "new"
        with _os_errors_named(str(root)):
            for folder in (self._files, self._types, self._new):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        oldest_s = time.time() - LEFTOVER_AGE_S
        for path in self._new.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest_s:
                    path.unlink()

    def keep_space_free(self) -> None:
        """Raises OSError (ENOSPC)."""
        if self._keep_free_bytes and shutil.disk_usage(self._new).free < self._keep_free_bytes:
            raise OSError(errno.ENOSPC, "The rest of the disk is reserved")

    def new_path(self) -> Path:
        return self._new / secrets.token_hex(16)

    def publish(self, path: Path, key: str, content_type: str) -> ObjectInfo:
        """Move a finished file to its key. The type is stored first, so that no object is seen without one."""
        size_bytes = path.stat().st_size
        type_path = self.new_path()
        try:
            type_path.write_text(content_type, "utf-8")
            _move(type_path, self._types / key)
            _move(path, self._files / key)
        except Exception:
            type_path.unlink(missing_ok=True)
            if not (self._files / key).exists():
                with suppress(ObjectStoreError):
                    self.delete(key)  # its type, and the folders created for either
            raise
        return ObjectInfo(size_bytes, content_type)

    def writer(self, key: str, content_type: str = "application/octet-stream") -> LocalObjectWriter:
        return LocalObjectWriter(self, checked_key(key), content_type)

    def read(self, key: str, start: int = 0, end: int | None = None, chunk_bytes: int = 1 << 18) -> Iterator[bytes]:
        """Opens the file at once: ObjectNotFoundError is raised here, not at the first chunk."""
        with _os_errors_named(key):
            source = (self._files / checked_key(key)).open("rb")
            source.seek(start)
        chunks = _chunks(key, source, None if end is None else max(0, end - start), chunk_bytes)
        next(chunks)  # a generator that never started would not close the file when it is dropped
        return chunks

    def info(self, key: str) -> ObjectInfo:
        with _os_errors_named(key):
            path = self._files / checked_key(key)
            if not path.is_file():
                raise ObjectNotFoundError(f"There is no object {key}")
            return ObjectInfo(path.stat().st_size, (self._types / key).read_text("utf-8"))

    def copy(self, source: str, target: str) -> ObjectInfo:
        """A hard link (files are never changed in place), or a copy if the file system refuses links."""
        checked_key(target)
        info, path = self.info(source), self.new_path()
        with _os_errors_named(source):
            try:
                try:
                    os.link(self._files / source, path)
                except PermissionError:
                    shutil.copyfile(self._files / source, path)
                return self.publish(path, target, info.content_type)
            finally:
                path.unlink(missing_ok=True)  # renaming onto a link to the same file leaves the old name

    def delete(self, key: str) -> None:
        checked_key(key)
        for folder in (self._files, self._types):
            path = folder / key
            with suppress(ObjectNotFoundError), _os_errors_named(key):
                path.unlink()
            _remove_empty_folders(path.parent, folder)

    def delete_prefix(self, prefix: str) -> int:
        keys = list(self.list_keys(checked_folder(prefix)))
        for key in keys:
            self.delete(key)
        return len(keys)

    def list_keys(self, prefix: str) -> Iterator[str]:
        folder = self._files / checked_prefix(prefix).rpartition("/")[0]
        for place, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                key = (Path(place) / name).relative_to(self._files).as_posix()
                if key.startswith(prefix):
                    yield key

    def presign_get(self, key: str, expires_s: int, download_name: str) -> str | None:
        return None

    def presign_put(self, key: str, expires_s: int) -> str | None:
        return None

    def check(self) -> None:
        probe = self.new_path()
        with _os_errors_named("The objects folder"):
            try:
                probe.write_bytes(b"probe")
            finally:
                probe.unlink(missing_ok=True)


def _move(path: Path, target: Path) -> None:
    """Rename into a folder that another process may be removing as empty at the same time."""
    for _ in range(100):
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileNotFoundError):
            path.replace(target)
            return
    raise ObjectStoreError(f"{target.parent} is removed repeatedly")


def _remove_empty_folders(folder: Path, root: Path) -> None:
    with suppress(OSError):  # not empty, or already gone
        while folder != root:
            folder.rmdir()
            folder = folder.parent


def _chunks(key: str, source: BinaryIO, left: int | None, chunk_bytes: int) -> Iterator[bytes]:
    with source:
        yield b""
        while left is None or left > 0:
            with _os_errors_named(key):
                chunk = source.read(chunk_bytes if left is None else min(chunk_bytes, left))
            if not chunk:
                return
            left = None if left is None else left - len(chunk)
            yield chunk
