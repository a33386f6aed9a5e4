"""Files that are uploaded before their job: links of the object store, or of this service if it has none."""

from __future__ import annotations

import secrets
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import anyio
from fastapi import APIRouter, Path, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field
from redis.exceptions import RedisError

from api.access import Caller, LinkExpires, LinkHolder, LinkSignature, WithCaller, check_link
from api.dependencies import Dependencies, WithDependencies
from api.jobs import view_response
from api.limits import body_chunks
from api.problems import refusals
from api.staging import (
    StagedFile,
    StorageReservation,
    UploadStream,
    announced_bytes,
    storage_refusals,
    tracked_arrival,
)
from jobs.errors import ServiceError
from jobs.names import is_upload_id, new_job_id, new_upload_id, upload_key
from jobs.objects import ObjectNotFoundError
from jobs.opening import byte_quota
from jobs.signing import link_query

# An upload lives at least this long after its file arrived, so that the file becomes visible and a job can use it.
PUBLISH_S = 300.0

router = APIRouter(prefix="/uploads", tags=["uploads"])
# Needs no key: the signature in the link is the permission
link_router = APIRouter(prefix="/uploads", tags=["uploads"])


# A process that dies while it commits a file blocks other PUTs to the link for this long.
COMMIT_S = 120.0


class UploadLink(BaseModel):
    """A link that takes a file, and the id to submit it by (`video_upload_id`, `audio_upload_id`, `expression`)."""

    id: str
    method: Literal["PUT"] = "PUT"
    url: str = Field(description="Takes one PUT with the whole file as its body; no other header is needed")
    url_expires_at: datetime
    expires_at: datetime = Field(description="The file is deleted then; jobs submitted before keep their own copy")
    max_bytes: int


class UploadedFile(BaseModel):
    """The received file."""

    id: str
    size_bytes: int
    sha256: str


@router.post(
    "",
    operation_id="createUpload",
    summary="Get a link for a large file",
    status_code=201,
    response_model=UploadLink,
    responses=refusals("storage_full", "storage_quota_exceeded", "service_unavailable"),
)
def create_upload(parts: WithDependencies, caller: WithCaller) -> Response:
    """The file goes straight to the object store if that offers links, else to this service. One upload can serve any
    number of jobs until it expires. Links of this service take one file, and end when the key that requested them is
    revoked; presigned links of the object store replace the file on every PUT until they expire."""
    settings = parts.settings
    parts.space.check()
    upload_id = new_upload_id()
    now = datetime.now(UTC)
    expires_at = now + timedelta(seconds=settings.upload_ttl_s)
    link_s = min(settings.link_ttl_s, settings.upload_ttl_s)
    link_ends_at = now + timedelta(seconds=link_s)
    link = parts.objects.presign_put(upload_key(upload_id), link_s)
    parts.store.uploads.add(upload_id, expires_at, caller.owner)
    if link is not None:  # the file bypasses this service, so the largest size is reserved until it is measured
        quota = byte_quota(parts.settings, caller.owner, caller.account)
        try:
            with storage_refusals():
                parts.store.uploads.expect(upload_id, link_ends_at, settings.max_upload_bytes, quota)
        except ServiceError:
            parts.store.uploads.drop(upload_id)
            raise
    body = UploadLink(
        id=upload_id,
        url=link or _own_link(parts, upload_id, link_s, caller),
        url_expires_at=link_ends_at,
        expires_at=expires_at,
        max_bytes=settings.max_upload_bytes,
    )
    return view_response(body, 201)


@link_router.put(
    "/{upload_id}/content",
    operation_id="putUpload",
    summary="Put the file to a link of this service",
    response_model=UploadedFile,
    responses=refusals(
        "link_invalid",
        "upload_not_found",
        "upload_complete",
        "content_range_not_supported",
        "unsupported_media_type",
        "body_too_large",
        "request_timeout",
        "too_many_open",
        "storage_full",
        "storage_quota_exceeded",
        "file_empty",
        "container_unsupported",
        "service_unavailable",
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The file itself, of any content type",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put_upload(
    upload_id: Annotated[str, Path(description="Id from `POST /uploads`")],
    request: Request,
    parts: WithDependencies,
    expires: LinkExpires,
    signature: LinkSignature,
    key: LinkHolder = "",
) -> Response:
    """Accepts links from `POST /uploads` until they expire or their API key is revoked. A link takes one file: a PUT
    that failed may be repeated, one that succeeded may not."""
    owner = await run_in_threadpool(_check_put, parts, upload_id, expires, key, signature)
    if "content-range" in request.headers:
        raise ServiceError("content_range_not_supported", "This link takes the whole file in one PUT.")
    with parts.submissions.slot(owner):
        staged = await _receive(request, parts, upload_id, owner)
    return view_response(UploadedFile(id=upload_id, size_bytes=staged.size_bytes, sha256=staged.sha256))


def _check_put(parts: Dependencies, upload_id: str, expires: int, holder: str, signature: str) -> str:
    """The owner of the upload."""
    if not is_upload_id(upload_id):
        raise ServiceError("link_invalid", "The link was altered.")
    check_link(parts, "PUT", f"uploads/{upload_id}", expires, holder, signature)
    owner = parts.store.uploads.keep(upload_id, 0)
    if owner is None:
        raise _upload_expired()
    if _holds_file(parts, upload_id):
        raise _upload_complete()
    return owner


def _holds_file(parts: Dependencies, upload_id: str) -> bool:
    try:
        parts.objects.info(upload_key(upload_id))
    except ObjectNotFoundError:
        return False
    return True


def _upload_complete() -> ServiceError:
    return ServiceError("upload_complete", "This link has received its file already; it is kept unchanged.")


async def _receive(request: Request, parts: Dependencies, upload_id: str, owner: str) -> StagedFile:
    """The file arrives under an id of its own, so that its storage is accounted for wherever this ends, and becomes the
    upload's just before it is visible."""
    reservation = await run_in_threadpool(_open_reservation, parts, owner)
    stream = UploadStream(parts, reservation, upload_key(upload_id), None)
    token = secrets.token_hex(8)
    try:
        async with tracked_arrival(parts, reservation.arrival):
            await run_in_threadpool(reservation.announce, announced_bytes(request))
            async for chunk in body_chunks(request, parts.settings.max_upload_bytes, parts.pace):
                await stream.add(chunk)
            staged = await stream.seal()
            await run_in_threadpool(_claim_upload, parts, upload_id, token)
            settle = parts.store.uploads.settle
            arrived = (upload_id, reservation.arrival, staged.size_bytes, PUBLISH_S, staged.sha256)
            if not await run_in_threadpool(settle, *arrived):
                raise _upload_expired()
            await stream.commit()
            return staged
    finally:
        with anyio.CancelScope(shield=True):
            await stream.abandon()
            with suppress(RedisError):  # then both expire
                await run_in_threadpool(parts.store.uploads.drop_arrival, reservation.arrival)
                await run_in_threadpool(parts.store.locks.release, _lock(upload_id), token)


def _open_reservation(parts: Dependencies, owner: str) -> StorageReservation:
    account = parts.store.accounts.find(owner) if owner else None
    return StorageReservation(parts, new_job_id(), byte_quota(parts.settings, owner, account))


def _upload_expired() -> ServiceError:
    return ServiceError("upload_not_found", "This upload expired before its file arrived.")


def _claim_upload(parts: Dependencies, upload_id: str, token: str) -> None:
    """Of two PUTs that end at the same time only one is kept. Raises upload_complete."""
    if not parts.store.locks.acquire(_lock(upload_id), token, COMMIT_S) or _holds_file(parts, upload_id):
        raise _upload_complete()


def _lock(upload_id: str) -> str:
    return f"upload:{upload_id}"


def _own_link(parts: Dependencies, upload_id: str, ttl_s: int, caller: Caller) -> str:
    path, expires = f"uploads/{upload_id}", int(time.time()) + ttl_s
    query = link_query(parts.link_key, "PUT", path, expires, caller.key_id)
    return f"{parts.settings.public_url.rstrip('/')}{caller.base}/{path}/content?{query}"
