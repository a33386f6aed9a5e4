"""A face cache under test: either implementation behind one face."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jobs.local_objects import LocalObjectStore
from jobs.names import FACE_CACHE_PREFIX
from jobs.objects import ObjectStore
from jobs.store import JobStore
from retalking_core.face_cache import FaceCache, LocalFaceCache
from worker.face_cache import CacheLimits, StoredFaceCache

DAY_S = 86400.0


@dataclass(frozen=True)
class Bench:
    """A cache under test. opened: another one on the same entries, as a second process has it. root: None where the
    entries are no files; private: where private folders lie. objects: None for the cache in a folder."""

    cache: FaceCache
    opened: Callable[..., FaceCache]
    private: Path
    root: Path | None
    objects: ObjectStore | None
    sweep: Callable[[FaceCache], list[str]]


def local_bench(tmp_path: Path) -> Bench:
    def opened(max_bytes: int = 1 << 20, ttl_s: float = DAY_S) -> LocalFaceCache:
        return LocalFaceCache(tmp_path / "cache", max_bytes, ttl_s)

    entries = tmp_path / "cache" / "entries"
    return Bench(opened(), opened, tmp_path / "cache" / "open", entries, None, lambda cache: cache.sweep())


def stored_bench(tmp_path: Path, objects: ObjectStore, store: JobStore) -> Bench:
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def opened(max_bytes: int = 1 << 20, ttl_s: float = DAY_S) -> StoredFaceCache:
        return StoredFaceCache(store, objects, CacheLimits(max_bytes, ttl_s), scratch, lock_s=1.0)

    root = tmp_path / "objects" / "files" / FACE_CACHE_PREFIX if isinstance(objects, LocalObjectStore) else None
    return Bench(opened(), opened, scratch, root, objects, lambda cache: cache._entries.sweep())


def no_wait() -> None:
    raise AssertionError("there is nobody to wait for")


def key() -> str:
    return secrets.token_hex(32)


def keep(cache: FaceCache, name: str, **files: bytes) -> None:
    with cache.open(name, no_wait) as entry:
        for path in entry.folder.iterdir():
            path.unlink()
        for file, data in files.items():
            (entry.folder / file).write_bytes(data)
        entry.keep()


def look(cache: FaceCache, name: str) -> dict[str, bytes] | None:
    """What the entry holds; None where it is not there."""
    with cache.open(name, no_wait) as entry:
        held = {path.name: path.read_bytes() for path in entry.folder.iterdir()}
        assert entry.found or not held
        return held if entry.found else None
