"""Fetching, against a real HTTP server on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from retalking_core import errors
from retalking_core.digests import file_sha256
from retalking_core.weights.fetching import Fetcher, Source
from retalking_core.weights.synthesis import synthetic_state_dict
from retalking_core.weights.table import LOCK_NAME, WEIGHT_FILES, LockedFile, read_lock, record
from tests.networks.mirror import Mirror, serve, to_bytes

ENTRY = replace(WEIGHT_FILES["ganimation"], url=None)  # no test reaches for the network


@pytest.fixture
def mirror(checkpoint: bytes) -> Iterator[Mirror]:
    with serve(checkpoint) as mirror:
        yield mirror


@pytest.fixture(scope="module")
def checkpoint() -> bytes:
    return to_bytes(synthetic_state_dict("ganimation", 1))


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def fetcher(mirror: Mirror, waits: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetcher:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return Fetcher(tmp_path, mirrors=[mirror.url], sleep=waits.append)


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {ENTRY.file, LOCK_NAME, "weights.fetch.lock"}


def test_a_file_is_fetched_verified_named_and_recorded(fetcher: Fetcher, mirror: Mirror) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetcher.fetch(ENTRY, lambda done, total: seen.append((done, total)))
    assert path == fetcher.folder / ENTRY.file
    assert path.read_bytes() == mirror.body
    assert leftovers(fetcher.folder) == set()
    assert mirror.requests == [("/weights/30_net_gen.pth", None)]
    assert seen[-1] == (len(mirror.body), len(mirror.body))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    locked = read_lock(fetcher.folder)[ENTRY.file]
    assert (locked.sha256, locked.size_bytes) == (file_sha256(path), len(mirror.body))
    assert locked.source == f"{mirror.url}/30_net_gen.pth"


def test_a_file_that_is_there_is_not_fetched_again(fetcher: Fetcher, mirror: Mirror) -> None:
    fetcher.fetch(ENTRY)
    fetcher.fetch(ENTRY)
    assert len(mirror.requests) == 1


def test_a_broken_transfer_resumes_where_it_broke(fetcher: Fetcher, mirror: Mirror, waits: list[float]) -> None:
    mirror.break_after = [5_000_000, 7_000_000]
    path = fetcher.fetch(ENTRY)
    assert path.read_bytes() == mirror.body
    assert [asked for _, asked in mirror.requests] == [None, "bytes=5000000-", "bytes=12000000-"]
    assert len(waits) == 2


def test_another_process_resumes_what_one_began(fetcher: Fetcher, mirror: Mirror) -> None:
    mirror.break_after = [9_000_000]
    with pytest.raises(errors.WeightsUnreachableError, match="1 attempts"):
        replace(fetcher, attempts=1).fetch(ENTRY)
    assert (fetcher.folder / f"{ENTRY.file}.part").stat().st_size == 9_000_000
    assert not (fetcher.folder / ENTRY.file).exists()
    assert fetcher.fetch(ENTRY).read_bytes() == mirror.body
    assert mirror.requests[-1][1] == "bytes=9000000-"


def test_a_note_that_was_cut_off_starts_afresh(fetcher: Fetcher, mirror: Mirror) -> None:
    (fetcher.folder / f"{ENTRY.file}.part").write_bytes(b"left by a process that was killed")
    (fetcher.folder / f"{ENTRY.file}.part.json").write_text('{"url": "htt')
    assert fetcher.fetch(ENTRY).read_bytes() == mirror.body
    assert leftovers(fetcher.folder) == set()


def test_a_file_that_changed_in_between_starts_afresh(fetcher: Fetcher, mirror: Mirror) -> None:
    mirror.break_after = [9_000_000]
    with pytest.raises(errors.WeightsUnreachableError):
        replace(fetcher, attempts=1).fetch(ENTRY)
    mirror.body, mirror.tag = to_bytes(synthetic_state_dict("ganimation", 2)), '"two"'
    assert fetcher.fetch(ENTRY).read_bytes() == mirror.body


def test_a_source_that_can_not_resume_starts_afresh(fetcher: Fetcher, mirror: Mirror) -> None:
    mirror.ranges = False
    mirror.break_after = [9_000_000]
    assert fetcher.fetch(ENTRY).read_bytes() == mirror.body
    assert [asked for _, asked in mirror.requests] == [None, None]


def test_passing_refusals_are_retried_with_growing_waits(fetcher: Fetcher, mirror: Mirror, waits: list[float]) -> None:
    mirror.refusals = [503, 500, 429]
    assert fetcher.fetch(ENTRY).exists()
    assert waits == [1.0, 2.0, 4.0]


def test_what_is_not_there_is_not_retried(fetcher: Fetcher, mirror: Mirror, waits: list[float]) -> None:
    mirror.refusals = [404]
    with pytest.raises(errors.WeightsUnreachableError, match="HTTP 404"):
        fetcher.fetch(ENTRY)
    assert waits == []


def test_it_gives_up_in_the_end(fetcher: Fetcher, mirror: Mirror, waits: list[float]) -> None:
    mirror.refusals = [503] * 9
    with pytest.raises(errors.WeightsUnreachableError, match="in 5 attempts: HTTP 503"):
        fetcher.fetch(ENTRY)
    assert len(mirror.requests) == 5
    assert len(waits) == 4


def test_a_server_that_is_not_there_is_named(fetcher: Fetcher) -> None:
    with pytest.raises(errors.WeightsUnreachableError, match="30_net_gen"):
        replace(fetcher, mirrors=["http://127.0.0.1:9"], attempts=2).fetch(ENTRY)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"<!DOCTYPE html> please log in", errors.WeightsWrongFileError),
        (to_bytes({"model.0.weight": torch.zeros(3)}), errors.WeightsWrongFileError),
    ],
    ids=["page", "other-network"],
)
def test_a_wrong_file_never_gets_the_name(
    body: bytes, error: type[Exception], fetcher: Fetcher, mirror: Mirror
) -> None:
    mirror.body = body
    with pytest.raises(error):
        fetcher.fetch(ENTRY)
    assert not (fetcher.folder / ENTRY.file).exists()
    assert leftovers(fetcher.folder) == set()
    assert read_lock(fetcher.folder) == {}


def test_a_flipped_bit_on_the_way_is_found(fetcher: Fetcher, mirror: Mirror) -> None:
    middle = len(mirror.body) // 2
    mirror.body = mirror.body[:middle] + bytes([mirror.body[middle] ^ 1]) + mirror.body[middle + 1 :]
    with pytest.raises(errors.WeightsTruncatedError, match="checksum"):
        fetcher.fetch(ENTRY)
    assert not (fetcher.folder / ENTRY.file).exists()


def test_a_later_fetch_must_meet_the_lock(fetcher: Fetcher, mirror: Mirror) -> None:
    fetcher.fetch(ENTRY).unlink()
    mirror.body = to_bytes(synthetic_state_dict("ganimation", 2))
    with pytest.raises(errors.WeightsDigestMismatchError, match="recorded"):
        fetcher.fetch(ENTRY)
    assert not (fetcher.folder / ENTRY.file).exists()


def test_two_fetches_at_once_transfer_once(fetcher: Fetcher, mirror: Mirror) -> None:
    mirror.delay_s = 0.3
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: fetcher.fetch(ENTRY), range(2)))
    assert paths[0] == paths[1]
    assert len(mirror.requests) == 1


# Since Python 3.12: the child calls nothing that another thread may have locked.
@pytest.mark.filterwarnings("ignore:This process .*is multi-threaded:DeprecationWarning")
def test_processes_that_record_at_once_lose_no_entry(tmp_path: Path) -> None:
    names = [[f"{process}-{number}.pth" for number in range(40)] for process in range(4)]
    children = []
    for mine in names:
        if not (child := os.fork()):
            for name in mine:
                record(tmp_path, name, LockedFile("0" * 64, 1, "test"))
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert set(read_lock(tmp_path)) == {name for mine in names for name in mine}
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]


def test_it_goes_through_a_proxy(fetcher: Fetcher, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", mirror.url.removesuffix("/weights"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    through = replace(fetcher, mirrors=["http://weights.example/set"])
    assert through.fetch(ENTRY).read_bytes() == mirror.body
    assert mirror.requests[0][0] == "http://weights.example/set/30_net_gen.pth"


def test_without_mirror_and_url_it_says_what_to_do(fetcher: Fetcher) -> None:
    with pytest.raises(errors.WeightsUnreachableError, match="RETALKING_WEIGHTS_URL"):
        replace(fetcher, mirrors=()).fetch(replace(ENTRY, url=None))


def test_the_files_own_url_serves_where_there_is_no_mirror(fetcher: Fetcher, mirror: Mirror) -> None:
    known = replace(ENTRY, url=f"{mirror.url}/elsewhere.bin?token=secret")
    replace(fetcher, mirrors=()).fetch(known)
    assert mirror.requests[0][0] == "/weights/elsewhere.bin?token=secret"
    assert read_lock(fetcher.folder)[ENTRY.file].source == f"{mirror.url}/elsewhere.bin"


def test_other_schemes_are_passed_in(fetcher: Fetcher, mirror: Mirror) -> None:
    opened: list[str] = []

    @contextmanager
    def opener(url: str, start: int, version: str | None) -> Iterator[Source]:
        opened.append(url)
        yield Source(0, len(mirror.body), None, iter([mirror.body]))

    s3 = replace(fetcher, mirrors=["s3://bucket/prefix"])
    with pytest.raises(errors.WeightsUnreachableError, match="s3"):
        s3.fetch(ENTRY)
    assert replace(s3, openers={"s3": opener}).fetch(ENTRY).exists()
    assert opened == ["s3://bucket/prefix/30_net_gen.pth"]
