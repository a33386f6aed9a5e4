"""Files that arrive before their job: a link to put them to, and the receiving end where the object store has none."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import anyio
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field
from redis.exceptions import RedisError

from api.access import WithCaller
from api.bodies import body_chunks
from api.claims import Claim, announced_bytes, arriving, byte_quota, refusing_lack_of_storage
from api.jobs import view_response
from api.parts import Parts, WithParts
from api.problems import refusals
from api.staging import Intake, StagedFile
from jobs.errors import ServiceError
from jobs.ids import is_upload_id, new_job_id, new_upload_id
from jobs.links import is_signed, sign_link
from jobs.names import upload_key

# An upload lives at least this long after its file was received: until the file is visible, and a job can take it.
PUBLISH_S = 300.0

router = APIRouter(prefix="/uploads", tags=["uploads"])
# Needs no key: the signature in the link grants what is done
link_router = APIRouter(prefix="/uploads", tags=["uploads"])


class UploadLink(BaseModel):
    """Where to put a file, and the id to submit it by (`video_upload_id`, `audio_upload_id`, `expression`)."""

    id: str
    method: Literal["PUT"] = "PUT"
    url: str = Field(description="Takes one PUT with the file as its body; no other header is needed")
    url_expires_at: datetime
    expires_at: datetime = Field(description="The file is deleted then; jobs submitted before keep their own copy")
    max_bytes: int


class UploadedFile(BaseModel):
    """What was received."""

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
def create_upload(parts: WithParts, caller: WithCaller) -> Response:
    """The file goes straight to the object store where that gives links, else to this service. One upload can serve
    any number of jobs until it expires."""
    settings = parts.settings
    parts.space.check()
    upload_id = new_upload_id()
    now = datetime.now(UTC)
    expires_at = now + timedelta(seconds=settings.upload_ttl_s)
    link_s = min(settings.link_ttl_s, settings.upload_ttl_s)
    link_ends_at = now + timedelta(seconds=link_s)
    link = parts.objects.presign_put(upload_key(upload_id), link_s)
    parts.store.add_upload(upload_id, expires_at, caller.owner)
    if link is not None:  # the file never passes this service, so its largest size is reserved until it was measured
        quota = byte_quota(parts, caller.owner, caller.key)
        try:
            with refusing_lack_of_storage():
                parts.store.await_upload(upload_id, link_ends_at, settings.max_upload_bytes, quota)
        except ServiceError:
            parts.store.drop_upload(upload_id)
            raise
    body = UploadLink(
        id=upload_id,
        url=link or _own_link(parts, upload_id, link_s),
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
    parts: WithParts,
    expires: Annotated[int, Query(ge=0, le=10**12, description="From the link")],
    signature: Annotated[str, Query(max_length=128, description="From the link")],
) -> Response:
    """Only links made by `POST /uploads` are accepted. Putting again replaces the file."""
    path = f"uploads/{upload_id}"
    if not (is_upload_id(upload_id) and is_signed(parts.link_key, "PUT", path, expires, signature, time.time())):
        raise ServiceError("link_invalid", "The link was altered or has expired.")
    owner = await run_in_threadpool(parts.store.keep_upload, upload_id, 0)
    if owner is None:
        raise _expired()
    with parts.submissions.take(owner):
        staged = await _receive(request, parts, upload_id, owner)
    return view_response(UploadedFile(id=upload_id, size_bytes=staged.size_bytes, sha256=staged.sha256))


async def _receive(request: Request, parts: Parts, upload_id: str, owner: str) -> StagedFile:
    """The file arrives under an id of its own, so that what it holds is known wherever this ends, and becomes the
    upload's in the step before it is visible."""
    claim = await run_in_threadpool(_open_claim, parts, owner)
    intake = Intake(parts, claim, upload_key(upload_id), None)
    try:
        async with arriving(parts, claim.arrival):
            await run_in_threadpool(claim.announce, announced_bytes(request))
            async for chunk in body_chunks(request, parts.settings.max_upload_bytes, parts.pace):
                await intake.add(chunk)
            staged = await intake.seal()
            settle = parts.store.settle_upload
            if not await run_in_threadpool(settle, upload_id, claim.arrival, staged.size_bytes, PUBLISH_S):
                raise _expired()
            await intake.commit()
            return staged
    finally:
        with anyio.CancelScope(shield=True):
            await intake.abandon()
            with suppress(RedisError):  # then it ends by itself
                await run_in_threadpool(parts.store.drop_arrival, claim.arrival)


def _open_claim(parts: Parts, owner: str) -> Claim:
    key = parts.store.find_key(owner) if owner else None
    return Claim(parts, new_job_id(), byte_quota(parts, owner, key))


def _expired() -> ServiceError:
    return ServiceError("upload_not_found", "This upload expired before its file was there.")


def _own_link(parts: Parts, upload_id: str, ttl_s: int) -> str:
    expires = int(time.time()) + ttl_s
    signature = sign_upload(parts.link_key, upload_id, expires)
    base = parts.settings.public_url.rstrip("/")
    return f"{base}/uploads/{upload_id}/content?expires={expires}&signature={signature}"


def sign_upload(key: bytes, upload_id: str, expires: int) -> str:
    return sign_link(key, "PUT", f"uploads/{upload_id}", expires)
