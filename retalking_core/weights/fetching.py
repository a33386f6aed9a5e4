"""Fetches weight files: resumes, retries, verifies, and only then gives a file its name.

Two schemes are built in, http and https, over the standard library, which honors the proxy variables. Others (`s3://`)
are passed in as an `Opener`, since this package knows no cloud library.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from retalking_core.errors import (
    WeightsDigestMismatchError,
    WeightsError,
    WeightsMissingError,
    WeightsTruncatedError,
    WeightsUnreachableError,
)
from retalking_core.weights.checkpoint import check_members, read_state_dict
from retalking_core.weights.table import (
    LOCK_NAME,
    LockedFile,
    WeightFile,
    check_digest,
    digest_of,
    find_file,
    read_lock,
    record,
)

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
GUARD_NAME = "weights.fetch.lock"
PERMANENT = (400, 401, 403, 404, 405, 410)
Progress = Callable[[int, int | None], None]

_ANOTHER_WAY = "Set RETALKING_WEIGHTS_URL to a mirror, or put the file into the weights folder"


class SourceGoneError(Exception):
    """The source answered, and trying again cannot help."""


@dataclass(frozen=True)
class Source:
    """An open source. start: offset of the first byte it will give (0 where it did not resume). total: size of the
    whole file, where known. version: an ETag or the like, the same as long as the file is."""

    start: int
    total: int | None
    version: str | None
    chunks: Iterator[bytes]


class Opener(Protocol):
    def __call__(self, url: str, start: int, version: str | None) -> AbstractContextManager[Source]:
        """Opens from byte `start` if the file is still `version`, else from 0. Raises `OSError` for what may pass, and
        `SourceGoneError` for what will not."""
        ...


@contextmanager
def open_http(url: str, start: int, version: str | None) -> Iterator[Source]:
    headers = {"User-Agent": "retalking-weights", "Accept-Encoding": "identity"}
    if start and version:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    try:
        # An opener of its own: `urlopen` would keep the proxy variables of the process's first call.
        opener = urllib.request.build_opener()
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in PERMANENT:
            raise SourceGoneError(f"HTTP {error.code}") from None
        raise OSError(f"HTTP {error.code}") from None
    except (ValueError, http.client.InvalidURL):  # of the mirror, or of a Location header on the way
        raise SourceGoneError("it leads to something that is not a well-formed address") from None
    with response:
        given = response.headers.get("Content-Range", "") if response.status == 206 else ""
        first = int(given.removeprefix("bytes ").split("-")[0]) if given else 0
        length = response.headers.get("Content-Length")
        total = first + int(length) if length else None
        # A weak ETag may not be used to resume.
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
        yield Source(first, total, None if tag and tag.startswith("W/") else tag, _read(response))


def _read(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read(CHUNK_BYTES):
            yield chunk
    except http.client.HTTPException as error:  # not an OSError: the peer hung up within the body
        raise OSError(f"connection broken: {type(error).__name__}") from error


@dataclass(frozen=True)
class Fetcher:
    """base_url: a mirror that holds the files under their own names; without it each file's own address is used.
    openers: by scheme. Waits 1, 2, 4 … s between attempts; an attempt that brought bytes starts the count anew."""

    folder: Path
    base_url: str | None = None
    openers: Mapping[str, Opener] | None = None
    attempts: int = 5
    sleep: Callable[[float], None] = time.sleep

    def fetch(self, entry: WeightFile, progress: Progress = lambda done, total: None) -> Path:
        """The file in its place, fetched if it is not there yet. Raises a `WeightsError`."""
        if (there := self._present(entry)) is not None:
            return there
        path, url = self.folder / entry.file, self.url_of(entry)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{entry.file}.part"
        with _only_one(self.folder):
            if not path.exists():  # the one before us may have brought it
                self._download(url, entry, partial, progress)
                self._accept(partial, entry, url)
        return path

    def _present(self, entry: WeightFile) -> Path | None:
        """The file if it is already there, checked."""
        try:
            path = find_file(self.folder, entry)
        except WeightsMissingError:
            return None
        check_digest(path, read_lock(self.folder).get(path.name))
        read_state_dict(path, entry)
        return path

    def url_of(self, entry: WeightFile) -> str:
        if self.base_url:
            return f"{self.base_url.rstrip('/')}/{quote(entry.file)}"
        if entry.url:
            return entry.url
        raise WeightsUnreachableError(
            f"no address is known for {entry.file} (published by {entry.publisher}): set RETALKING_WEIGHTS_URL to a "
            "mirror, or put the file into the weights folder",
            file=entry.file,
        )

    def _download(self, url: str, entry: WeightFile, partial: Path, progress: Progress) -> None:
        opener = self._opener(url, entry)
        failures, reason = 0, ""
        while failures < self.attempts:
            before = _size(partial)
            try:
                if _transfer(opener, url, partial, progress):
                    return
                reason = "the connection ended early"
            except SourceGoneError as error:
                raise WeightsUnreachableError(
                    f"{entry.file} is unavailable at its source: {error}. {_ANOTHER_WAY}"
                ) from None
            except OSError as error:
                reason = str(error)
            failures = 1 if _size(partial) > before else failures + 1
            if failures < self.attempts:
                self.sleep(min(2.0 ** (failures - 1), 30.0))
        raise WeightsUnreachableError(
            f"{entry.file} could not be fetched in {self.attempts} attempts: {reason}. {_ANOTHER_WAY}"
        )

    def _opener(self, url: str, entry: WeightFile) -> Opener:
        scheme = urlsplit(url).scheme
        known: dict[str, Opener] = {"http": open_http, "https": open_http, **(self.openers or {})}
        if scheme not in known:
            raise WeightsUnreachableError(f"{entry.file}: no way to fetch from {scheme or 'a plain path'}: addresses")
        return known[scheme]

    def _accept(self, partial: Path, entry: WeightFile, url: str) -> None:
        """Checks the finished download and gives it its name. What fails is removed, to start afresh next time."""
        locked = read_lock(self.folder).get(entry.file)
        size, digest = _size(partial), digest_of(partial)
        try:
            if url == entry.url and entry.size_bytes not in (None, size):
                raise WeightsTruncatedError(f"{entry.file} has {size} bytes, not {entry.size_bytes}", file=entry.file)
            if locked is not None and locked.sha256 != digest:
                raise WeightsDigestMismatchError(
                    f"the source's {entry.file} is not the file that {LOCK_NAME} recorded", file=entry.file
                )
            check_members(partial, entry)
            read_state_dict(partial, entry)
        except WeightsError:
            _discard(partial)
            raise
        partial.replace(self.folder / entry.file)
        _state_of(partial).unlink(missing_ok=True)
        record(self.folder, entry.file, LockedFile(digest, size, _without_secrets(url)))


def _without_secrets(url: str) -> str:
    """The address without user, password and signature."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _transfer(opener: Opener, url: str, partial: Path, progress: Progress) -> bool:
    """One attempt. Whether the file is whole now."""
    state, known = _state_of(partial), _known_state(partial)
    resumable = known.get("url") == url and known.get("version")
    start = _size(partial) if resumable else 0
    if start and start == known.get("total"):
        return True
    with opener(url, start, known["version"] if start else None) as source:
        state.write_text(json.dumps({"url": url, "version": source.version, "total": source.total}))
        with partial.open("r+b" if partial.exists() else "wb") as file:
            file.truncate(source.start)
            file.seek(source.start)
            done = source.start
            for chunk in source.chunks:
                file.write(chunk)
                done += len(chunk)
                progress(done, source.total)
    return source.total is None or done == source.total


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """One fetch into a folder at a time on this machine; a second one waits, and then finds the file there."""
    with (folder / GUARD_NAME).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _state_of(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


def _known_state(partial: Path) -> dict[str, Any]:
    """What is known of the source that the partial file came from; nothing, if its note is missing or was cut off."""
    try:
        return json.loads(_state_of(partial).read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _discard(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _state_of(partial).unlink(missing_ok=True)
