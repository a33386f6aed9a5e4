"""The face cache of a service: entries in the object store, and a lock per key in the job store.

A key begins with the job's owner (the id of an account; empty if keys are not required), so that no owner learns from a
`hit` what another has sent, and the entries of one owner can be deleted alone.

Under face-cache/<key>/: manifest.json lists the files of the entry, <generation>/ holds them, `used` is the time of the
last read or write. Any failure of the cache is logged, and the render computes what it needs.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from redis.exceptions import RedisError

from jobs.names import FACE_CACHE_PREFIX
from jobs.objects import ObjectNotFoundError, ObjectStore, ObjectStoreError
from jobs.store import JobStore
from retalking_core.face_cache import (
    DamagedEntryError,
    EntryUse,
    Manifest,
    checked_key,
    empty_folder,
    is_key,
    scope_of,
    surplus,
)
from worker.scratch import attempt_folder

log = logging.getLogger(__name__)

WAIT_S = 1.0
# The lock of a dead render expires after this; a live one renews it three times as often.
LOCK_S = 30.0


@dataclass(frozen=True)
class CacheLimits:
    """Limits of the whole cache."""

    max_bytes: int
    """Of all entries together."""
    ttl_s: float
    """An entry unused for this long is deleted."""


class StoredFaceCache:
    """A `FaceCache`, for one process. scratch: where private folders go (`worker.scratch`)."""

    def __init__(
        self, store: JobStore, objects: ObjectStore, limits: CacheLimits, scratch: Path, lock_s: float = LOCK_S
    ) -> None:
        self._entries = StoredEntries(objects, limits)
        self._store, self._scratch, self._lock_s = store, scratch, lock_s

    @contextmanager
    def open(self, key: str, waiting: Callable[[], None]) -> Iterator[StoredEntry]:
        """See `FaceCache.open`."""
        checked_key(key)
        with attempt_folder(self._scratch, f"cache-{key[:12]}", 0) as folder:
            if self._entries.read(key, folder):
                yield StoredEntry(self._entries, key, folder, found=True)
                return
            with KeyLock(self._store, key, self._lock_s) as lock:
                while not lock.try_acquire():
                    waiting()
                    time.sleep(WAIT_S)
                    if self._entries.is_there(key):
                        break
                # It may have appeared between the read above and the lock.
                yield StoredEntry(self._entries, key, folder, self._entries.read(key, folder))


@dataclass
class StoredEntry:
    """A `CacheEntry`."""

    entries: StoredEntries
    key: str
    folder: Path
    found: bool

    def keep(self) -> None:
        self.entries.write(self.key, self.folder)


class KeyLock:
    """A lock in the job store, renewed by a thread while it is held. If the store is unreachable, every caller gets it:
    computing twice is better than failing."""

    def __init__(self, store: JobStore, key: str, ttl_s: float) -> None:
        self._store, self._name, self._ttl_s = store, lock_name(key), ttl_s
        self._owner = secrets.token_hex(8)
        self._released = threading.Event()
        self._renewer: threading.Thread | None = None

    def __enter__(self) -> KeyLock:
        return self

    def __exit__(self, *_: object) -> None:
        if self._renewer is not None:
            self._released.set()
            self._renewer.join()
            with suppress(RedisError):  # then it expires
                self._store.locks.release(self._name, self._owner)

    def try_acquire(self) -> bool:
        if not self._acquire():
            return False
        renewer = threading.Thread(target=self._renew, name=self._name, daemon=True)
        renewer.start()  # may be refused: then there is nothing to join, and the lock expires
        self._renewer = renewer
        return True

    def _renew(self) -> None:
        while not self._released.wait(self._ttl_s / 3):
            self._acquire()

    def _acquire(self) -> bool:
        try:
            return self._store.locks.acquire(self._name, self._owner, self._ttl_s)
        except RedisError as fault:
            log.warning("lock of a cache entry not acquired: %s", type(fault).__name__)
            return True


@dataclass
class StoredEntries:
    """Entries in the object store: read, written, swept."""

    objects: ObjectStore
    limits: CacheLimits
    clock: Callable[[], float] = field(default=time.time)

    def is_there(self, key: str) -> bool:
        try:
            self.objects.info(manifest_key(key))
        except (ObjectNotFoundError, ObjectStoreError):
            return False
        return True

    def read(self, key: str, folder: Path) -> bool:
        """Fetch the entry into `folder`. False, and an empty folder, if there is no complete entry."""
        try:
            manifest = self._manifest(key)
            for name, file in manifest.files.items():
                self.objects.fetch(file_key(key, manifest.generation, name), folder / name, file.size_bytes)
            manifest.check(folder)
        except (ObjectNotFoundError, ObjectStoreError, DamagedEntryError, OSError) as fault:
            empty_folder(folder)
            # Not found: a usual miss, or an entry that was deleted while it was read.
            if not isinstance(fault, ObjectNotFoundError):
                log.warning("cache entry not used: %s", fault, extra={"key": key})
            return False
        self._mark_used(key)
        return True

    def write(self, key: str, folder: Path) -> None:
        """Publish the files of `folder`; see `CacheEntry.keep`."""
        manifest = Manifest.of(folder)
        if manifest.size_bytes > self.limits.max_bytes:
            log.info("cache entry not kept: larger than the whole cache", extra={"count": manifest.size_bytes})
            return
        try:
            self._mark_used(key)  # first: an incomplete entry without the mark would be swept
            for name in manifest.files:
                self.objects.put_file(
                    file_key(key, manifest.generation, name), folder / name, "application/octet-stream"
                )
            with self.objects.writer(manifest_key(key), "application/json") as writer:
                writer.write(manifest.to_json().encode())
                writer.commit()
            self._delete_others(key, manifest.generation)
        except (ObjectStoreError, OSError) as fault:
            log.warning("cache entry not kept: %s", fault, extra={"key": key})

    def sweep(self, former_owners: Collection[str] = ()) -> list[str]:
        """Delete expired entries, those over the size limit, and those of former owners. Returns the deleted keys.

        An entry that cannot be deleted is left to the next sweep. Raises ObjectStoreError if nothing can be listed.
        """
        keys = sorted({name.removeprefix(FACE_CACHE_PREFIX).split("/")[0] for name in self._names("")})
        keys = [key for key in keys if is_key(key)]
        going = [key for key in keys if scope_of(key) in former_owners]
        uses = [self._use(key) for key in keys if key not in set(going)]
        going += [use.key for use in surplus(uses, self.limits.max_bytes, self.limits.ttl_s, self.clock())]
        return [key for key in going if self._delete(key)]

    def _delete(self, key: str) -> bool:
        try:
            # The manifest first: without it there is no entry, whatever fails next.
            self.objects.delete(manifest_key(key))
            self.objects.delete_prefix(f"{FACE_CACHE_PREFIX}{key}/")
        except (ObjectStoreError, OSError) as fault:
            log.error("cache entry not deleted: %s", fault, extra={"key": key})
            return False
        return True

    def _manifest(self, key: str) -> Manifest:
        return Manifest.parse(b"".join(self.objects.read(manifest_key(key))))

    def _mark_used(self, key: str) -> None:
        try:
            with self.objects.writer(used_key(key), "text/plain") as writer:
                writer.write(str(self.clock()).encode())
                writer.commit()
        except ObjectStoreError as fault:
            log.warning("use of a cache entry not recorded: %s", fault, extra={"key": key})

    def _use(self, key: str) -> EntryUse:
        """Without a time of use an entry counts as old; without a manifest (yet) as empty."""
        used_s, size_bytes = 0.0, 0
        with suppress(ObjectNotFoundError, DamagedEntryError, ValueError):
            used_s = float(b"".join(self.objects.read(used_key(key))))
            size_bytes = self._manifest(key).size_bytes
        return EntryUse(key, used_s, size_bytes)

    def _delete_others(self, key: str, generation: str) -> None:
        """Files of earlier generations."""
        for name in list(self._names(key + "/")):
            folder, slash, _file = name.removeprefix(f"{FACE_CACHE_PREFIX}{key}/").partition("/")
            if slash and folder != generation:
                self.objects.delete(name)

    def _names(self, under: str) -> Iterator[str]:
        return self.objects.list_keys(FACE_CACHE_PREFIX + under)


def manifest_key(key: str) -> str:
    return f"{FACE_CACHE_PREFIX}{checked_key(key)}/manifest.json"


def used_key(key: str) -> str:
    return f"{FACE_CACHE_PREFIX}{checked_key(key)}/used"


def file_key(key: str, generation: str, name: str) -> str:
    return f"{FACE_CACHE_PREFIX}{checked_key(key)}/{generation}/{name}"


def lock_name(key: str) -> str:
    return f"face-cache-{key}"
