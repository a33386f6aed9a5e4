"""The face cache of a service when its stores fail, and what lies under its keys."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from jobs.local_objects import LocalObjectStore
from jobs.names import FACE_CACHE_PREFIX
from jobs.objects import ObjectStoreError
from jobs.store import JobStore
from tests.services import wait_until
from tests.worker.cache_bench import DAY_S, keep, key, look, no_wait
from worker.face_cache import CacheLimits, StoredEntries, StoredFaceCache, file_key, manifest_key


class Refusing:
    """A store of which the named calls fail."""

    def __init__(self, inner: Any, fault: Exception, *calls: str) -> None:
        self._inner, self._fault, self._calls = inner, fault, calls

    def __getattr__(self, name: str) -> Any:
        if name not in self._calls:
            return getattr(self._inner, name)

        def refuse(*_: object, **__: object) -> None:
            raise self._fault

        return refuse


def test_a_sweep_leaves_an_entry_that_is_being_written(tmp_path: Path) -> None:
    objects, name, swept = LocalObjectStore(tmp_path / "objects"), key(), []
    entries = StoredEntries(objects, CacheLimits(1 << 20, DAY_S))
    files = tmp_path / "files"
    files.mkdir()
    (files / "a").write_bytes(b"a")

    class Sweeping(Refusing):
        def put_file(self, *args: Any) -> Any:
            done = objects.put_file(*args)
            swept.append(entries.sweep())
            return done

    StoredEntries(Sweeping(objects, ObjectStoreError("away")), entries.limits).write(name, files)
    assert swept == [[]]
    (tmp_path / "back").mkdir()
    assert entries.read(name, tmp_path / "back")


@pytest.mark.parametrize("calls", [("put_file",), ("writer",), ("list_keys", "delete")])
def test_a_store_that_refuses_writes_costs_nothing(
    tmp_path: Path, job_store: JobStore, caplog: pytest.LogCaptureFixture, calls: tuple[str, ...]
) -> None:
    objects = Refusing(LocalObjectStore(tmp_path / "objects"), ObjectStoreError("away"), *calls)
    cache = StoredFaceCache(job_store, objects, CacheLimits(1 << 20, DAY_S), tmp_path)
    name = key()
    keep(cache, name, faces=b"faces")
    assert "not kept" in caplog.text
    assert (look(cache, name) is None) == (calls != ("list_keys", "delete"))


@pytest.mark.parametrize("calls", [("read",), ("info",), ("fetch",)])
def test_a_store_that_refuses_reads_is_a_miss(tmp_path: Path, job_store: JobStore, calls: tuple[str, ...]) -> None:
    objects = LocalObjectStore(tmp_path / "objects")
    name, limits = key(), CacheLimits(1 << 20, DAY_S)
    keep(StoredFaceCache(job_store, objects, limits, tmp_path), name, faces=b"faces")
    away = StoredFaceCache(job_store, Refusing(objects, ObjectStoreError("away"), *calls), limits, tmp_path)
    assert (look(away, name) is None) == (calls != ("info",))


def test_without_locks_every_render_computes(
    tmp_path: Path, job_store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_store, "locks", Refusing(job_store.locks, RedisConnectionError("away"), "acquire"))
    objects, limits = LocalObjectStore(tmp_path / "objects"), CacheLimits(1 << 20, DAY_S)
    name = key()
    with (
        StoredFaceCache(job_store, objects, limits, tmp_path).open(name, no_wait) as one,
        StoredFaceCache(job_store, objects, limits, tmp_path).open(name, no_wait) as two,
    ):
        assert not one.found
        assert not two.found
        (one.folder / "faces").write_bytes(b"faces")
        one.keep()
    assert look(StoredFaceCache(job_store, objects, limits, tmp_path), name) == {"faces": b"faces"}


def test_a_long_render_keeps_its_lock(tmp_path: Path, job_store: JobStore) -> None:
    objects, limits = LocalObjectStore(tmp_path / "objects"), CacheLimits(1 << 20, DAY_S)
    name = key()
    with StoredFaceCache(job_store, objects, limits, tmp_path, lock_s=2.0).open(name, no_wait):
        until = time.monotonic() + 4.0
        while time.monotonic() < until:
            assert not job_store.locks.acquire(f"face-cache-{name}", "somebody", 0.001)
            time.sleep(0.05)
    wait_until(lambda: job_store.locks.acquire(f"face-cache-{name}", "somebody", 0.001), 5)


def test_foreign_objects_under_the_prefix_are_kept(tmp_path: Path) -> None:
    objects = LocalObjectStore(tmp_path / "objects")
    with objects.writer(f"{FACE_CACHE_PREFIX}README") as writer:
        writer.write(b"not ours")
        writer.commit()
    assert StoredEntries(objects, CacheLimits(0, 0.0)).sweep() == []
    assert objects.info(f"{FACE_CACHE_PREFIX}README").size_bytes == 8


def test_keys_of_objects() -> None:
    name = 64 * "a"
    assert manifest_key(name) == f"face-cache/{name}/manifest.json"
    assert file_key(name, "0123456789abcdef", "track") == f"face-cache/{name}/0123456789abcdef/track"
