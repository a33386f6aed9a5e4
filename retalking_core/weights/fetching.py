"""Fetches weight files: resumes, retries, verifies, and only then gives a file its name.

Two schemes are built in, http and https, over the standard library, which honors the proxy variables. Others (`s3://`)
are passed in as an `Opener`, since this package knows no cloud library.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from retalking_core.digests import file_sha256
from retalking_core.errors import (
    WeightsError,
    WeightsMissingError,
    WeightsTruncatedError,
    WeightsUnreachableError,
)
from retalking_core.weights.checkpoint import check_content, check_digest, check_members
from retalking_core.weights.table import (
    LockedFile,
    WeightFile,
    find_file,
    read_lock,
    record,
)

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
GUARD_NAME = "weights.fetch.lock"
PERMANENT = (400, 401, 403, 404, 405, 410)
RANGE_REFUSED = 416
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
        if error.code == RANGE_REFUSED and start:  # the partial file is longer than what the source has now
            with open_http(url, 0, None) as afresh:
                yield afresh
            return
        if error.code in PERMANENT:
            raise SourceGoneError(f"HTTP {error.code}") from None
        raise OSError(f"HTTP {error.code}") from None
    except (ValueError, http.client.InvalidURL):  # of the mirror, or of a Location header on the way
        raise SourceGoneError("it leads to something that is not a well-formed URL") from None
    except http.client.HTTPException as error:
        raise OSError(f"not an HTTP answer: {type(error).__name__}") from None
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
    """Waits 1, 2, 4 … s between attempts at one URL; an attempt that got farther than all before starts the count
    anew. Each file comes from the first URL that serves the right one (`urls`)."""

    folder: Path
    mirrors: Sequence[str] = ()
    """In order; each a flat folder of files (a base URL) or `hf:OWNER/REPOSITORY[@REVISION][/FOLDER]`."""
    openers: Mapping[str, Opener] | None = None
    """By scheme, besides http and https."""
    attempts: int = 5
    sleep: Callable[[float], None] = time.sleep
    accept: frozenset[str] = frozenset()
    """SHA-256 digests of files to accept in place of those that the table or the lock states."""
    on_failure: Callable[[str, WeightsError], None] = lambda url, error: None
    """Called for each URL that failed when another one follows."""

    def fetch(self, entry: WeightFile, progress: Progress = lambda done, total: None) -> Path:
        """The file in its place, fetched if it is not there yet, and recorded in the lock. Raises a `WeightsError`."""
        if (there := self._present(entry)) is not None:
            return there
        urls = self.urls(entry)
        self.folder.mkdir(parents=True, exist_ok=True)
        failures: list[WeightsError] = []
        with _only_one(self.folder):
            if (there := self._present(entry)) is not None:  # the one before us may have brought it
                return there
            for position, (name, url) in enumerate(urls, 1):
                partial = self.folder / f"{name}.part"
                try:
                    self._download(url, entry, partial, progress)
                    return self._accept(partial, entry, name, url)
                except WeightsError as error:
                    failures.append(error)
                    if position < len(urls):
                        self.on_failure(_without_secrets(url), error)
        raise _joined(failures, entry)

    def _present(self, entry: WeightFile) -> Path | None:
        """The file if it is already there, checked and recorded."""
        try:
            path = find_file(self.folder, entry)
        except WeightsMissingError:
            return None
        locked = read_lock(self.folder).get(path.name)
        checked = self._checked(path, entry, path.name, locked.source if locked else "found in the weights folder")
        if checked != locked:
            record(self.folder, path.name, checked)
        _state_of(self.folder / f"{path.name}.part").unlink(missing_ok=True)
        return path

    def urls(self, entry: WeightFile) -> list[tuple[str, str]]:
        """(file name, URL) in the order of trial: mirrors of the user, the publisher, known mirrors.

        Known mirrors are other people's copies, so they serve only files whose digest is known.
        """
        found = [(name, file_url(base, name)) for base in self.mirrors for name in entry.names]
        if entry.url:
            found.append((entry.file, entry.url))
        found += [(name, file_url(base, name)) for base in entry.mirrors for name in entry.pins]
        if found:
            return found
        raise WeightsUnreachableError(
            f"no URL is known for {entry.file} (published by {entry.publisher}). {_ANOTHER_WAY}", file=entry.file
        )

    def _download(self, url: str, entry: WeightFile, partial: Path, progress: Progress) -> None:
        opener = self._opener(url, entry)
        failures, farthest, reason = 0, _size(partial), ""
        while failures < self.attempts:
            try:
                if _transfer(opener, url, partial, progress):
                    return
                reason = "the connection ended early"
            except SourceGoneError as error:
                raise WeightsUnreachableError(
                    f"{entry.file} is unavailable at its source: {error}. {_ANOTHER_WAY}", file=entry.file
                ) from None
            except OSError as error:
                reason = str(error)
            failures = 1 if _size(partial) > farthest else failures + 1
            farthest = max(farthest, _size(partial))
            if failures < self.attempts:
                self.sleep(min(2.0 ** (failures - 1), 30.0))
        raise WeightsUnreachableError(
            f"{entry.file} could not be fetched in {self.attempts} attempts: {reason}. {_ANOTHER_WAY}", file=entry.file
        )

    def _opener(self, url: str, entry: WeightFile) -> Opener:
        scheme = urlsplit(url).scheme
        known: dict[str, Opener] = {"http": open_http, "https": open_http, **(self.openers or {})}
        if scheme not in known:
            raise WeightsUnreachableError(
                f"{entry.file} cannot be fetched from {scheme or 'a plain path'}; give an http(s) URL.", file=entry.file
            )
        return known[scheme]

    def _accept(self, partial: Path, entry: WeightFile, name: str, url: str) -> Path:
        """Checks the finished download and gives it its name. What fails is removed, to start afresh next time."""
        try:
            checked = self._checked(partial, entry, name, _without_secrets(url))
        except WeightsError:
            _discard(partial)
            raise
        path = partial.replace(self.folder / name)
        _state_of(partial).unlink(missing_ok=True)
        record(self.folder, name, checked)
        return path

    def _checked(self, path: Path, entry: WeightFile, name: str, source: str) -> LockedFile:
        """What the lock is to say about a file that will be called `name`. Raises a `WeightsError`."""
        locked, pin = read_lock(self.folder).get(name), entry.pins.get(name)
        digest, size = file_sha256(path), _size(path)
        accepted = digest in self.accept
        if not accepted:
            if path.name != name and pin and pin.size_bytes and size < pin.size_bytes:
                raise WeightsTruncatedError(f"{name} has {size} bytes, not {pin.size_bytes}", file=name)
            check_digest(path, entry, locked, name)
        check_members(path, entry)
        check_content(path, entry)
        if locked is not None and locked.sha256 == digest:
            source, accepted = locked.source, accepted or locked.accepted
        return LockedFile(digest, size, source, accepted)


def file_url(base: str, name: str) -> str:
    """URL of a file on a mirror. `HF_ENDPOINT` is honored as Hugging Face's own tools do."""
    if not base.startswith("hf:"):
        return f"{base.rstrip('/')}/{quote(name)}"
    owner, _, rest = base.removeprefix("hf:").strip("/").partition("/")
    repository, _, folder = rest.partition("/")
    repository, _, revision = repository.partition("@")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    parts = [endpoint, owner, repository, "resolve", revision or "main", *filter(None, folder.split("/")), quote(name)]
    return "/".join(parts)


def _joined(failures: list[WeightsError], entry: WeightFile) -> WeightsError:
    """One error for all URLs: a file that was refused says more than one that was not reached."""
    if len(failures) == 1:
        return failures[0]
    telling = next((error for error in failures if not isinstance(error, WeightsUnreachableError)), failures[-1])
    reasons = "; ".join(dict.fromkeys(error.message.removesuffix(f". {_ANOTHER_WAY}") for error in failures))
    return type(telling)(f"{reasons}. {_ANOTHER_WAY}", **({"file": entry.file} | telling.details))


def _without_secrets(url: str) -> str:
    """The URL without user, password and signature."""
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
        if source.start and (source.start != start or source.version != known["version"]):
            _discard(partial)  # bytes of two files must never meet
            raise OSError("the file changed at its source between two ranges")
        with partial.open("r+b" if partial.exists() else "wb") as file:
            file.truncate(source.start)
            # Only now: a note about the new version beside bytes of the old one would be resumed.
            state.write_text(json.dumps({"url": url, "version": source.version, "total": source.total}))
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
