"""The face cache of a service: entries in the object store, one render a key by a lock in the job store.

A key begins with the job's owner (the id of an API key; nothing where keys are not required), so that no owner learns
from a `hit` what another has sent, and the entries of one owner can be deleted alone.

Under face-cache/<key>/: manifest.json names what the entry holds, <generation>/ holds it, `used` says when it was last
written or read. A cache is a convenience: whatever of it fails is logged, and the render computes.
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
# A render that died frees its key after this; one that lives renews it three times as often.
LOCK_S = 30.0


@dataclass(frozen=True)
class CacheLimits:
    """max_bytes: of all entries. ttl_s: an entry unused so long goes."""

    max_bytes: int
    ttl_s: float


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
                # It may have appeared between the look above and the lock.
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
    """A lock in the job store, renewed by a thread while it is held. A store that is away lets everybody pass: twice
    computed is better than not at all."""

    def __init__(self, store: JobStore, key: str, ttl_s: float) -> None:
        self._store, self._name, self._ttl_s = store, lock_name(key), ttl_s
        self._owner = secrets.token_hex(8)
        self._over = threading.Event()
        self._renewer: threading.Thread | None = None

    def __enter__(self) -> KeyLock:
        return self

    def __exit__(self, *_: object) -> None:
        if self._renewer is not None:
            self._over.set()
            self._renewer.join()
            with suppress(RedisError):  # then it lapses
                self._store.locks.release(self._name, self._owner)

    def try_acquire(self) -> bool:
        if not self._ask():
            return False
        renewer = threading.Thread(target=self._renew, name=self._name, daemon=True)
        renewer.start()  # may be refused: then there is nothing to join, and the lock lapses
        self._renewer = renewer
        return True

    def _renew(self) -> None:
        while not self._over.wait(self._ttl_s / 3):
            self._ask()

    def _ask(self) -> bool:
        try:
            return self._store.locks.acquire(self._name, self._owner, self._ttl_s)
        except RedisError as fault:
            log.warning("the lock of a cache entry is not known: %s", type(fault).__name__)
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
        """Fetch the entry into `folder`; False, and an empty folder, where there is none that is whole."""
        try:
            manifest = self._manifest(key)
            for name, file in manifest.files.items():
                self.objects.fetch(file_key(key, manifest.generation, name), folder / name, file.size_bytes)
            manifest.check(folder)
        except (ObjectNotFoundError, ObjectStoreError, DamagedEntryError, OSError) as fault:
            empty_folder(folder)
            # Not there: the everyday miss, or an entry that went while it was read.
            if not isinstance(fault, ObjectNotFoundError):
                log.warning("a cache entry is not used: %s", fault, extra={"key": key})
            return False
        self._mark_used(key)
        return True

    def write(self, key: str, folder: Path) -> None:
        """Publish the files of `folder`; see `CacheEntry.keep`."""
        manifest = Manifest.of(folder)
        if manifest.size_bytes > self.limits.max_bytes:
            log.info("an entry is larger than the whole cache: not kept", extra={"count": manifest.size_bytes})
            return
        try:
            self._mark_used(key)  # first: what is half written and unmarked is swept
            for name in manifest.files:
                self.objects.put_file(
                    file_key(key, manifest.generation, name), folder / name, "application/octet-stream"
                )
            with self.objects.writer(manifest_key(key), "application/json") as writer:
                writer.write(manifest.to_json().encode())
                writer.commit()
            self._delete_others(key, manifest.generation)
        except (ObjectStoreError, OSError) as fault:
            log.warning("a cache entry was not kept: %s", fault, extra={"key": key})

    def sweep(self, former_owners: Collection[str] = ()) -> list[str]:
        """Delete what is past its time, over the size, or of an owner that is no more. Returns the keys that went; an
        entry that cannot be deleted is left to the next sweep. Raises ObjectStoreError where nothing can be listed."""
        keys = sorted({name.removeprefix(FACE_CACHE_PREFIX).split("/")[0] for name in self._names("")})
        keys = [key for key in keys if is_key(key)]
        going = [key for key in keys if scope_of(key) in former_owners]
        uses = [self._use(key) for key in keys if key not in set(going)]
        going += [use.key for use in surplus(uses, self.limits.max_bytes, self.limits.ttl_s, self.clock())]
        return [key for key in going if self._delete(key)]

    def _delete(self, key: str) -> bool:
        try:
            # The manifest first: from here on the entry is not there, whatever happens.
            self.objects.delete(manifest_key(key))
            self.objects.delete_prefix(f"{FACE_CACHE_PREFIX}{key}/")
        except (ObjectStoreError, OSError) as fault:
            log.error("a cache entry was not deleted: %s", fault, extra={"key": key})
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
            log.warning("the use of a cache entry was not noted: %s", fault, extra={"key": key})

    def _use(self, key: str) -> EntryUse:
        """What has no sign of use counts as old; what has no manifest (yet) takes no space."""
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
