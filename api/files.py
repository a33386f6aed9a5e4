"""One object over HTTP: whole or in ranges, with validators (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from api.dependencies import Dependencies
from api.limits import LimitedResponse
from jobs.errors import ServiceError
from jobs.objects import ObjectNotFoundError


@dataclass(frozen=True)
class ServedFile:
    """An object and its headers. etag: with quotes. download_name: suggested file name."""

    key: str
    size_bytes: int
    etag: str
    content_type: str
    download_name: str

    @property
    def has_ranges(self) -> bool:
        """False for JSON: clients parse what is announced as JSON, and a part of it is none."""
        return self.content_type != "application/json"

    @property
    def headers(self) -> dict[str, str]:
        return {
            "ETag": self.etag,
            "Accept-Ranges": "bytes" if self.has_ranges else "none",
            "Content-Disposition": f'attachment; filename="{self.download_name}"',
            "Cache-Control": "private, max-age=3600",
        }


class Download(LimitedResponse, StreamingResponse):
    """A file that is being sent; the number of open ones is limited."""


def file_response(request: Request, parts: Dependencies, owner: str, file: ServedFile) -> Response:
    """Answer 200, 206 or 304. owner: of the job; downloads through a link count as the owner's.

    Raises precondition_failed, range_not_satisfiable, storage_failed if the object is missing, and, while sending,
    too_many_open.
    """
    headers = file.headers
    check_if_match(request.headers, file.etag)
    if is_unchanged(request.headers, file.etag):
        return Response(status_code=304, headers=headers)
    byte_range = requested_range(request.headers, file.size_bytes, file.etag) if file.has_ranges else None
    start, end = (byte_range.start, byte_range.end) if byte_range else (0, file.size_bytes)
    try:
        parts.objects.info(file.key)
    except ObjectNotFoundError:
        raise ServiceError("storage_failed", "This file is not in the object store.") from None
    if byte_range is not None:
        headers["Content-Range"] = byte_range.header
    download = Download(
        parts.objects.read(file.key, start, end),
        status_code=206 if byte_range else 200,
        headers=headers | {"Content-Length": str(end - start)},
        media_type=file.content_type,
    )
    return download.limit(parts.downloads, owner)


_RANGE = re.compile(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", re.IGNORECASE)


@dataclass(frozen=True)
class ByteRange:
    """Bytes start..end of size bytes, end exclusive."""

    start: int
    end: int
    size: int

    @property
    def header(self) -> str:
        return f"bytes {self.start}-{self.end - 1}/{self.size}"


def requested_range(headers: Mapping[str, str], size: int, etag: str) -> ByteRange | None:
    """The range to send, or None for the whole file. Multiple ranges, other units and a stale If-Range also get the
    whole file, as the RFC allows. Raises range_not_satisfiable."""
    match = _RANGE.fullmatch(headers.get("range", ""))
    if match is None or match.group(1) == match.group(2) == "":
        return None
    if headers.get("if-range", etag) != etag:
        return None
    first, last = match.groups()
    if first == "":
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None  # RFC 9110 14.1.1: such a range is invalid, and an invalid Range is ignored.
    if start >= size or start >= end:
        raise ServiceError(
            "range_not_satisfiable",
            f"The file has {size} bytes.",
            headers={"Content-Range": f"bytes */{size}", "Accept-Ranges": "bytes"},
        )
    return ByteRange(start, end, size)


def check_if_match(headers: Mapping[str, str], etag: str) -> None:
    """Raises precondition_failed if If-Match does not name this content. Weak tags never match (RFC 9110, 13.1.1)."""
    given = {tag.strip() for tag in headers.get("if-match", "").split(",")} - {""}
    if given and not given & {etag, "*"}:
        raise ServiceError("precondition_failed", f"The file has another ETag: {etag}.")


def is_unchanged(headers: Mapping[str, str], etag: str) -> bool:
    """True if If-None-Match names this content: answer 304."""
    given = [tag.strip().removeprefix("W/") for tag in headers.get("if-none-match", "").split(",")]
    return etag in given or given == ["*"]
