"""Links for players: a `<video>` element cannot send a key, so its link must carry the permission.

Presigned links of the object store if it offers them, else signed links of this service.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field, StringConstraints

from api.access import ANYONE, Caller, LinkExpires, LinkHolder, LinkSignature, WithCaller, check_link
from api.dependencies import Dependencies, WithDependencies
from api.jobs import JobId, find_job, view_response
from api.middleware import EMBEDDABLE
from api.problems import refusals
from api.results import (
    FILE_REFUSALS,
    RESULT_PARAMETERS,
    RESULT_RESPONSES,
    ServedFile,
    file_response,
    find_excerpt,
    served_result,
)
from jobs.errors import ServiceError
from jobs.models import SEGMENT_AUDIO, InputRef, Job
from jobs.objects import ObjectNotFoundError
from jobs.signing import link_query
from retalking_core.vocabulary.containers import HEAD_BYTES, KINDS, sniff

router = APIRouter(prefix="/jobs/{job_id}/media", tags=["results"])
# Without a key: the signature is the permission.
signed_router = APIRouter(prefix="/jobs/{job_id}/media", tags=["results"])

# What each job may have; a job with segments has `audio_1`, `audio_2`, ... in place of `audio`.
PARTS = ("video", "audio", "result", "poster", "preview")
MediaPart = Annotated[str, StringConstraints(pattern=rf"^({'|'.join(PARTS)}|{SEGMENT_AUDIO})$")]
_MEDIA = {kind.playable_as: {"schema": {"type": "string", "format": "binary"}} for kind in KINDS}
MEDIA_RESPONSES = {
    status: entry | ({"content": _MEDIA} if "content" in entry else {})
    for status, entry in RESULT_RESPONSES.items()
    if status != 307
}


class MediaLink(BaseModel):
    """A link to one file. url: needs no key until it expires; relative to this service if it is one of its own."""

    url: str
    content_type: str = Field(description="Sniffed from the first bytes; `image/...` for a still face")


class MediaLinks(BaseModel):
    """The playable files of a job. null: missing, or its URL is not fetched yet; `audio` also for a job with
    segments."""

    expires_at: datetime
    video: MediaLink | None
    audio: MediaLink | None
    segment_audio: dict[str, MediaLink | None] = Field(
        description="The speeches of segments: `audio_1`, `audio_2`, ..., as the `inputs` of the job"
    )
    result: MediaLink | None
    poster: MediaLink | None
    preview: MediaLink | None


@router.get(
    "",
    operation_id="getMedia",
    summary="Links for players: inputs and result",
    response_model=MediaLinks,
    responses=refusals("job_not_found", "record_unreadable", "service_unavailable"),
)
def get_media(job_id: JobId, parts: WithDependencies, caller: WithCaller) -> Response:
    """Each link opens one file without a key until it expires, because media elements cannot send one. Links of this
    service also end when the key that requested them is revoked; presigned links of the object store do not."""
    job = find_job(parts, caller, job_id)
    ends_at = datetime.now(UTC) + timedelta(seconds=parts.settings.link_ttl_s)

    def links(names: Iterable[str]) -> dict[str, MediaLink | None]:
        return {name: _link(parts, job, name, int(ends_at.timestamp()), caller) for name in names}

    return view_response(MediaLinks(expires_at=ends_at, segment_audio=links(job.spec.segment_audio), **links(PARTS)))


@signed_router.get(
    "/{part}",
    operation_id="openMedia",
    summary="Open a link for players",
    response_class=Response,
    responses=MEDIA_RESPONSES
    | refusals(
        "link_invalid",
        *FILE_REFUSALS,
    ),
    openapi_extra=RESULT_PARAMETERS,
)
def open_media(
    job_id: JobId,
    part: Annotated[MediaPart, Path(description="Which file")],
    request: Request,
    parts: WithDependencies,
    expires: LinkExpires,
    signature: LinkSignature,
    key: LinkHolder = "",
) -> Response:
    """Accepts links from `GET /jobs/{job_id}/media` until they expire or their API key is revoked."""
    check_link(parts, "GET", _path(job_id, part), expires, key, signature)
    request.state.headers = EMBEDDABLE
    job = find_job(parts, ANYONE, job_id)
    file = _file_of(parts, job, part)
    if file is None:
        raise ServiceError("result_not_ready", f"This job has no {part} to play.")
    return file_response(request, parts, job.owner, file)


def _path(job_id: str, part: str) -> str:
    return f"jobs/{job_id}/media/{part}"


def _link(parts: Dependencies, job: Job, part: MediaPart, expires: int, caller: Caller) -> MediaLink | None:
    file = _file_of(parts, job, part)
    if file is None:
        return None
    link = parts.objects.presign_get(file.key, parts.settings.link_ttl_s, file.download_name)
    if link is None:
        path = _path(job.id, part)
        link = f"{caller.base}/{path}?{link_query(parts.link_key, 'GET', path, expires, caller.key_id)}"
    return MediaLink(url=link, content_type=file.content_type)


def _file_of(parts: Dependencies, job: Job, part: MediaPart) -> ServedFile | None:
    if part == "result":
        return served_result(job.id, job.result) if job.result else None
    if part == "poster":
        return find_excerpt(parts, job, "poster")
    if part == "preview":
        return find_excerpt(parts, job, "preview")
    source = job.inputs.get(part)  # neither a job with segments nor an analysis has `audio`
    return _input_file(parts, job, part, source) if source else None


def _input_file(parts: Dependencies, job: Job, part: str, source: InputRef) -> ServedFile | None:
    """A stored input. Its type is sniffed from its bytes, because the caller's content type is not trustworthy."""
    if source.key is None:
        return None
    try:
        size = parts.objects.info(source.key).size_bytes
        head = b"".join(parts.objects.read(source.key, 0, min(size, HEAD_BYTES)))
    except ObjectNotFoundError:
        return None
    kind = sniff(head)
    if kind is None:
        return None
    # Inputs of a job never change, so its id and the slot make a valid ETag.
    return ServedFile(source.key, size, f'"{job.id}-{part}"', kind.playable_as, f"{job.id}-{part}.{kind.name}")
