"""Face cache: what depends on the video and not on the speech, kept for the next speech. Needs no torch.

An entry is a set of files under a key. Two implementations share the interface and one suite of tests: `LocalFaceCache`
(a folder of this machine, for `retalking run --cache`) and `worker.face_cache` (the object store of all workers)."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from retalking_core.digests import file_sha256


class CacheEntry(Protocol):
    """One opened entry.

    folder: private to this render, gone with the block; holds the entry's files where `found`, else empty. Files are
    flat: plain names, no folders inside.
    """

    folder: Path
    found: bool

    def keep(self) -> None:
        """Publish the files that are in `folder` now, in place of what the entry held. A reader sees the old entry or
        the new one, never a mixture. A cache that cannot take them logs it and goes on: the render loses nothing."""
        ...


class FaceCache(Protocol):
    def open(self, key: str, waiting: Callable[[], None]) -> AbstractContextManager[CacheEntry]:
        """The entry under `key` (lower-case hex).

        Blocks while another render computes the same key, until its entry appears or its lock lapses, and calls
        `waiting` about once a second meanwhile: what that raises ends the wait. Leaving the block frees the lock and
        deletes `folder`. Raises ValueError for what is not a key.
        """
        ...


# SHA-256, in hex: the last digits of a key.
DIGEST_DIGITS = 64

_KEY = re.compile(r"[0-9a-f]{16,128}")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


class DamagedEntryError(Exception):
    """An entry that is torn, altered or not in our form. It is read as one that is not there."""


def scope_of(key: str) -> str:
    """What stands before the digest (see `RenderOptions.face_cache_scope`)."""
    return key[:-DIGEST_DIGITS]


def is_key(text: str) -> bool:
    """16 to 128 digits of lower-case hex: keys become names of files and objects."""
    return _KEY.fullmatch(text) is not None


def checked_key(key: str) -> str:
    """Raises ValueError for what is not a key."""
    if not is_key(key):
        raise ValueError(f"{key[:80]!r} is not the key of a cache entry")
    return key


@dataclass(frozen=True)
class StoredFile:
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an entry holds, written last: an entry without one is not there.

    generation: names the folder of this version of the entry, so that a new version never mixes with the old one.
    files: by plain name.
    """

    generation: str
    files: dict[str, StoredFile]

    @classmethod
    def of(cls, folder: Path) -> Manifest:
        """Describe the files in a folder, as a new generation. Raises ValueError for names that we would not read."""
        files = {}
        for path in sorted(folder.iterdir()):
            if not _NAME.fullmatch(path.name) or not path.is_file():
                raise ValueError(f"{path.name[:80]!r} cannot be kept in a cache entry")
            files[path.name] = StoredFile(path.stat().st_size, file_sha256(path))
        return cls(secrets.token_hex(8), files)

    @classmethod
    def parse(cls, text: str | bytes) -> Manifest:
        """Raises DamagedEntryError."""
        try:
            document = json.loads(text)
            files = {name: StoredFile(int(size), str(digest)) for name, (size, digest) in document["files"].items()}
            generation = document["generation"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedEntryError("the manifest cannot be read") from error
        if not all(map(_NAME.fullmatch, files)) or not _KEY.fullmatch(str(generation)):
            raise DamagedEntryError("the manifest names what no entry holds")
        return cls(generation, files)

    def to_json(self) -> str:
        files = {name: [file.size_bytes, file.sha256] for name, file in self.files.items()}
        return json.dumps({"generation": self.generation, "files": files})

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())

    def check(self, folder: Path) -> None:
        """Raises DamagedEntryError where a file of the folder is not what was stored."""
        for name, file in self.files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != file.size_bytes or file_sha256(path) != file.sha256:
                raise DamagedEntryError(f"{name} is not what was stored")


def empty_folder(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@dataclass(frozen=True)
class EntryUse:
    """used_s: when it was last written or read, seconds since 1970."""

    key: str
    used_s: float
    size_bytes: int


def surplus(entries: Iterable[EntryUse], max_bytes: int, ttl_s: float, now_s: float) -> list[EntryUse]:
    """Which entries go: those not used for ttl_s, then the least recently used until the rest fits."""
    kept_bytes, going = 0, []
    for entry in sorted(entries, key=lambda entry: entry.used_s, reverse=True):
        # Once one does not fit, all older ones go too: else a large entry would be outlived by small, older ones.
        if now_s - entry.used_s > ttl_s or kept_bytes + entry.size_bytes > max_bytes:
            going.append(entry)
            kept_bytes = max_bytes
        else:
            kept_bytes += entry.size_bytes
    return going


log = logging.getLogger(__name__)

WAIT_S = 1.0
_MANIFEST = "manifest.json"


class LocalFaceCache:
    """A `FaceCache`. max_bytes: of all entries, the least recently used go first. ttl_s: one unused so long goes."""

    def __init__(self, root: Path, max_bytes: int, ttl_s: float) -> None:
        self._entries, self._open, self._locks = root / "entries", root / "open", root / "locks"
        self._max_bytes, self._ttl_s = max_bytes, ttl_s
        for folder in (self._entries, self._open, self._locks):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def open(self, key: str, waiting: Callable[[], None]) -> Iterator[LocalEntry]:
        """See `FaceCache.open`."""
        checked_key(key)
        with _held_folder(self._open) as folder:
            if self._read(key, folder):
                yield LocalEntry(self, key, folder, found=True)
                return
            with _key_lock(self._locks / key, lambda: self._read(key, folder), waiting) as found:
                # It may have appeared between the look above and the lock.
                yield LocalEntry(self, key, folder, found or self._read(key, folder))

    def write(self, key: str, folder: Path) -> None:
        """Publish the files of `folder`; see `CacheEntry.keep`."""
        try:
            manifest = Manifest.of(folder)
            if manifest.size_bytes > self._max_bytes:
                log.warning("an entry is larger than the whole cache: not kept", extra={"size": manifest.size_bytes})
                return
            place = self._entries / key
            place.mkdir(mode=0o700, exist_ok=True)
            shutil.copytree(folder, place / manifest.generation)
            part = place / f"{manifest.generation}.part"
            part.write_text(manifest.to_json())
            part.replace(place / _MANIFEST)
            for old in place.iterdir():
                if old.is_dir() and old.name != manifest.generation:
                    shutil.rmtree(old, ignore_errors=True)
            self.sweep()
        except OSError as error:
            log.warning("the cache could not be written: %s", error.strerror)

    def sweep(self) -> list[str]:
        """Delete what is past its time or over the size, and what dead processes left. Returns the keys that went."""
        _sweep_folders(self._open)
        going = surplus(self._uses(), self._max_bytes, self._ttl_s, time.time())
        for entry in going:
            # The manifest first: from here on the entry is not there, whatever happens.
            (self._entries / entry.key / _MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(self._entries / entry.key, ignore_errors=True)
        return [entry.key for entry in going]

    def _uses(self) -> Iterator[EntryUse]:
        for place in self._entries.iterdir():
            with suppress(FileNotFoundError):
                size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
                used = place / _MANIFEST if (place / _MANIFEST).is_file() else place
                yield EntryUse(place.name, used.stat().st_mtime, size)

    def _read(self, key: str, folder: Path) -> bool:
        """Copy the entry into `folder`; False, and an empty folder, where there is none that is whole."""
        manifest_file = self._entries / key / _MANIFEST
        try:
            manifest = Manifest.parse(manifest_file.read_bytes())
            for name in manifest.files:
                shutil.copyfile(manifest_file.parent / manifest.generation / name, folder / name)
            manifest.check(folder)
            os.utime(manifest_file)
        except (OSError, DamagedEntryError) as error:
            if not isinstance(error, FileNotFoundError):
                log.warning("a cache entry is not used: %s", error, extra={"key": key})
            empty_folder(folder)
            return False
        return True


@dataclass
class LocalEntry:
    """A `CacheEntry`."""

    cache: LocalFaceCache
    key: str
    folder: Path
    found: bool

    def keep(self) -> None:
        self.cache.write(self.key, self.folder)


@contextmanager
def _held_folder(root: Path) -> Iterator[Path]:
    """A private folder, locked while this process lives and removed at the end."""
    folder = Path(tempfile.mkdtemp(dir=root))
    hold = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(hold, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(hold)


def _sweep_folders(root: Path) -> None:
    """Remove folders that no process holds. One that is a moment old may not have its lock yet."""
    for folder in root.iterdir():
        with suppress(OSError):
            hold = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(hold).st_mtime > 60:
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(hold)


@contextmanager
def _key_lock(path: Path, appeared: Callable[[], bool], waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock file at `path`. Where another holds it: ask `appeared` about once a second, and yield True,
    without the lock, when it says so."""
    while (hold := _try_lock(path)) is None:
        waiting()
        time.sleep(WAIT_S)
        if appeared():
            yield True
            return
    try:
        yield False
    finally:
        path.unlink(missing_ok=True)
        os.close(hold)


def _try_lock(path: Path) -> int | None:
    """The descriptor of the locked file; None where another has it, or just removed it."""
    hold = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The last holder unlinks the file: a lock on a file without a name would hold nobody off.
        if os.fstat(hold).st_ino == path.stat().st_ino:
            return hold
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(hold)
    return None
