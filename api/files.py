"""One object over HTTP: whole or in ranges, with validators (RFC 9110)."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from api.dependencies import Dependencies
from api.places import HoldsPlace
from api.ranges import asked_range, is_unchanged
from jobs.errors import ServiceError
from jobs.objects import ObjectNotFoundError


@dataclass(frozen=True)
class ServedFile:
    """An object and how it is told. etag: with its quotes. download_name: offered to a person who saves it."""

    key: str
    size_bytes: int
    etag: str
    content_type: str
    download_name: str

    @property
    def headers(self) -> dict[str, str]:
        return {
            "ETag": self.etag,
            "Accept-Ranges": "bytes",
            "Content-Disposition": f'attachment; filename="{self.download_name}"',
            "Cache-Control": "private, max-age=3600",
        }


class Download(HoldsPlace, StreamingResponse):
    """Counted among the open ones."""


def file_response(request: Request, parts: Dependencies, owner: str, file: ServedFile) -> Response:
    """200, 206 or 304. owner: of the job, whose downloads these are, also by a link. Raises range_not_satisfiable,
    storage_failed where the object is gone, and too_many_open when it is sent."""
    headers = file.headers
    if is_unchanged(request.headers, file.etag):
        return Response(status_code=304, headers=headers)
    part = asked_range(request.headers, file.size_bytes, file.etag)
    start, end = (part.start, part.end) if part else (0, file.size_bytes)
    try:
        parts.objects.info(file.key)
    except ObjectNotFoundError:
        raise ServiceError("storage_failed", "This file is not in the object store.") from None
    if part is not None:
        headers["Content-Range"] = part.header
    download = Download(
        parts.objects.read(file.key, start, end),
        status_code=206 if part else 200,
        headers=headers | {"Content-Length": str(end - start)},
        media_type=file.content_type,
    )
    return download.hold(parts.downloads, owner)
