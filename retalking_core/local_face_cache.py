"""A face cache in a folder of this machine, for `retalking run --cache`. Processes may share it.

root/entries/<key>/manifest.json and root/entries/<key>/<generation>/; root/open/ holds the private folders of renders
that run; root/locks/ one file for each key in work. The kernel frees a lock when its process dies, however it dies.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from retalking_core.cache_entries import (
    DamagedEntryError,
    EntryUse,
    Manifest,
    checked_key,
    empty_folder,
    surplus,
)

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
