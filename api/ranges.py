"""HTTP ranges and validators (RFC 9110 sections 13 and 14) for one file whose content never changes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from jobs.errors import ServiceError

_RANGE = re.compile(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", re.IGNORECASE)


@dataclass(frozen=True)
class ByteRange:
    """start..end of size, end exclusive."""

    start: int
    end: int
    size: int

    @property
    def header(self) -> str:
        return f"bytes {self.start}-{self.end - 1}/{self.size}"


def asked_range(headers: Mapping[str, str], size: int, etag: str) -> ByteRange | None:
    """The range to send; None: the whole file. Several ranges, other units and a stale If-Range also get the whole
    file, as the RFC allows. Raises range_not_satisfiable."""
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


def is_unchanged(headers: Mapping[str, str], etag: str) -> bool:
    """True where If-None-Match names this content: the answer is 304."""
    given = [tag.strip().removeprefix("W/") for tag in headers.get("if-none-match", "").split(",")]
    return etag in given or given == ["*"]
