"""One contract suite over both face caches: a folder, and the object store (a folder, a bucket) with locks in Redis."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.local_objects import LocalObjectStore
from jobs.names import FACE_CACHE_PREFIX
from jobs.s3_objects import S3ObjectStore
from jobs.store import JobStore
from retalking_core import face_cache as core_cache
from retalking_core.face_cache import EntryUse, FaceCache, surplus
from tests.services import S3Endpoint
from tests.worker.cache_bench import Bench, keep, key, local_bench, look, no_wait, stored_bench
from worker import face_cache


@pytest.fixture(scope="module")
def bucket(s3: S3Endpoint) -> S3ObjectStore:
    own = s3.with_bucket(f"cache-{secrets.token_hex(6)}")
    return S3ObjectStore(
        own.bucket, endpoint=own.endpoint, access_key_id=own.access_key_id, secret_access_key=own.secret_access_key
    )


@pytest.fixture(params=["folder", "objects", "bucket"])
def bench(
    request: pytest.FixtureRequest, tmp_path: Path, job_store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    for module in (core_cache, face_cache):
        monkeypatch.setattr(module, "WAIT_S", 0.05)
    if request.param == "folder":
        return local_bench(tmp_path)
    if request.param == "objects":
        return stored_bench(tmp_path, LocalObjectStore(tmp_path / "objects"), job_store)
    objects: S3ObjectStore = request.getfixturevalue("bucket")
    objects.delete_prefix(FACE_CACHE_PREFIX)
    return stored_bench(tmp_path, objects, job_store)


# For tests that reach into the stored files: a bucket has none, but shares its code with the folder of objects.
with_files = pytest.mark.parametrize("bench", ["folder", "objects"], indirect=True)


def test_a_kept_entry_is_found_by_another_cache(bench: Bench) -> None:
    name = key()
    assert look(bench.cache, name) is None
    keep(bench.cache, name, track=b"points", faces=bytes(70_000))
    assert look(bench.opened(), name) == {"track": b"points", "faces": bytes(70_000)}
    assert look(bench.cache, key()) is None


def test_an_entry_that_is_not_kept_is_missing(bench: Bench) -> None:
    name = key()
    with bench.cache.open(name, no_wait) as entry:
        (entry.folder / "track").write_bytes(b"points")
    assert look(bench.cache, name) is None


def test_a_new_version_replaces_the_whole_entry(bench: Bench) -> None:
    name = key()
    keep(bench.cache, name, track=b"old", faces=b"old")
    keep(bench.cache, name, track=b"new")
    assert look(bench.cache, name) == {"track": b"new"}
    if bench.objects is not None:  # and of the old one nothing is left
        assert len(list(bench.objects.list_keys(f"{FACE_CACHE_PREFIX}{name}/"))) == 3
    else:
        assert len([path for path in bench.root.rglob("*") if path.is_file()]) == 2


def test_the_folder_is_private_and_deleted_with_the_block(bench: Bench) -> None:
    name = key()
    keep(bench.cache, name, track=b"points")
    seen: list[Path] = []

    def render() -> None:
        with bench.cache.open(name, no_wait) as entry:
            seen.append(entry.folder)
            (entry.folder / "track").write_bytes(b"scribbled")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        render()
    assert not seen[0].exists()
    assert not [path for path in bench.private.iterdir() if path.is_dir()]
    assert look(bench.cache, name) == {"track": b"points"}


@pytest.mark.parametrize("name", ["", "abc", "../" + 61 * "a", 64 * "A", 64 * "a" + "/b", 129 * "a"])
def test_only_hex_is_a_key(bench: Bench, name: str) -> None:
    with pytest.raises(ValueError, match="not the key"), bench.cache.open(name, no_wait):
        pass


def test_of_concurrent_renders_one_computes(bench: Bench) -> None:
    name, computed, results = key(), [], []
    start = threading.Barrier(4)

    def render() -> None:
        cache = bench.opened()
        start.wait()
        with cache.open(name, lambda: None) as entry:
            if not entry.found:
                computed.append(1)
                time.sleep(0.4)
                (entry.folder / "track").write_bytes(b"points")
                entry.keep()
            results.append((entry.folder / "track").read_bytes())

    threads = [threading.Thread(target=render) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [b"points"] * 4
    assert len(computed) == 1


def test_the_entry_ends_the_wait_before_the_other_is_done(bench: Bench) -> None:
    """The other render keeps its entry after the analysis, and goes on for minutes."""
    name = key()
    with bench.cache.open(name, no_wait) as first:
        (first.folder / "track").write_bytes(b"points")
        waits: list[int] = []

        def waiting() -> None:
            waits.append(1)
            if len(waits) == 2:
                first.keep()

        with bench.opened().open(name, waiting) as second:
            assert second.found
            assert (second.folder / "track").read_bytes() == b"points"
    assert len(waits) >= 2


def test_after_a_failed_render_the_next_one_computes(bench: Bench) -> None:
    name = key()
    first = bench.cache.open(name, no_wait)
    first.__enter__()
    ended: list[bool] = []

    def waiting() -> None:
        if not ended:
            first.__exit__(None, None, None)
            ended.append(True)

    with bench.opened().open(name, waiting) as second:
        assert ended
        assert not second.found


def test_cancel_ends_the_wait(bench: Bench) -> None:
    name = key()

    def cancel() -> None:
        raise InterruptedError

    with bench.cache.open(name, no_wait):
        with pytest.raises(InterruptedError), bench.opened().open(name, cancel):
            pass
        assert len([path for path in bench.private.iterdir() if path.is_dir()]) == 1
    assert look(bench.cache, name) is None


def test_different_keys_do_not_wait(bench: Bench) -> None:
    with bench.cache.open(key(), no_wait), bench.opened().open(key(), no_wait) as other:
        assert not other.found


def _hold_for_ever(cache: FaceCache, name: str, held: Any) -> None:
    with cache.open(name, no_wait):
        held.set()
        time.sleep(600)


@with_files
def test_a_killed_render_frees_its_key(bench: Bench) -> None:
    name, context = key(), multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=_hold_for_ever, args=(bench.cache, name, held), daemon=True)
    process.start()
    assert held.wait(10)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    began = time.monotonic()
    with bench.opened().open(name, lambda: None) as entry:
        assert not entry.found
    assert time.monotonic() - began < 5


def stored_files(bench: Bench, name: str) -> list[Path]:
    return sorted(path for path in (bench.root / name).rglob("*") if path.is_file())


@with_files
@pytest.mark.parametrize("harm", [lambda data: data[:-1], lambda data: b"", lambda data: data[:-1] + b"x"])
def test_a_damaged_file_makes_the_entry_missing(bench: Bench, harm: Callable[[bytes], bytes]) -> None:
    name = key()
    keep(bench.cache, name, track=b"some points", faces=b"some faces")
    file = next(path for path in stored_files(bench, name) if path.name == "faces")
    file.write_bytes(harm(file.read_bytes()))
    assert look(bench.cache, name) is None
    keep(bench.cache, name, track=b"again")
    assert look(bench.cache, name) == {"track": b"again"}


@with_files
@pytest.mark.parametrize("text", ["", "{", "[]", '{"generation": "../..", "files": {}}', '{"files": {"a": [1, "b"]}}'])
def test_a_torn_manifest_makes_the_entry_missing(bench: Bench, text: str) -> None:
    name = key()
    keep(bench.cache, name, track=b"points")
    (bench.root / name / "manifest.json").write_text(text)
    assert look(bench.cache, name) is None


@with_files
def test_a_manifest_never_leads_out_of_the_entry(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    name = key()
    keep(bench.cache, name, track=b"points")
    manifest = bench.root / name / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"track"', '"../../../../secret"'))
    assert look(bench.cache, name) is None


@with_files
def test_a_lost_file_makes_the_entry_missing(bench: Bench) -> None:
    name = key()
    keep(bench.cache, name, track=b"points", faces=b"faces")
    next(path for path in stored_files(bench, name) if path.name == "faces").unlink()
    assert look(bench.cache, name) is None


def test_an_entry_over_the_whole_size_is_not_kept(bench: Bench) -> None:
    name, small = key(), bench.opened(max_bytes=100)
    keep(small, name, faces=bytes(101))
    assert look(small, name) is None


def test_the_least_recently_used_entry_is_deleted_first(bench: Bench) -> None:
    names = [key() for _ in range(3)]
    cache = bench.opened(max_bytes=1500)
    for name in names[:2]:
        keep(cache, name, faces=bytes(600))
        time.sleep(0.02)
    assert look(cache, names[0]) is not None  # used once more: the second is the older one now
    time.sleep(0.02)
    keep(cache, names[2], faces=bytes(600))
    bench.sweep(cache)
    assert [look(cache, name) is not None for name in names] == [True, False, True]


def test_an_expired_entry_is_deleted(bench: Bench) -> None:
    name = key()
    keep(bench.cache, name, faces=b"faces")
    assert bench.sweep(bench.cache) == []
    time.sleep(0.05)
    assert bench.sweep(bench.opened(ttl_s=0.01)) == [name]
    assert look(bench.cache, name) is None


def test_surplus_entries_are_expired_or_over_the_size() -> None:
    entries = [EntryUse("a", 100, 40), EntryUse("b", 90, 50), EntryUse("c", 80, 30), EntryUse("d", 10, 1)]
    assert [entry.key for entry in surplus(entries, 95, 50, now_s=100)] == ["c", "d"]
    assert [entry.key for entry in surplus(entries, 1000, 50, now_s=100)] == ["d"]
    assert [entry.key for entry in surplus(entries, 0, 50, now_s=100)] == ["a", "b", "c", "d"]
