"""Results of a finished job: the video and its evaluation; and how one object is served over HTTP: whole or in ranges,
with validators (RFC 9110, sections 13 and 14).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, StreamingResponse
from fastapi.security import APIKeyQuery
from pydantic import BaseModel, Field, ValidationError

from api.access import ANYONE, LINK_SCHEME, Caller, LinkExpires, LinkHolder, WithCaller, WithKey, admit, check_link
from api.dependencies import Dependencies, WithDependencies
from api.jobs import JobId, find_job, view_response
from api.limits import LimitedResponse
from api.middleware import EMBEDDABLE
from api.problems import refusals
from jobs.errors import ServiceError
from jobs.models import EvaluationCurves, Job, JobStatus, MetricResult, ResultInfo
from jobs.names import curves_key, poster_key, preview_key
from jobs.objects import ObjectNotFoundError
from jobs.store.keys import Scope
from retalking_core.vocabulary.containers import OUTPUTS


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


router = APIRouter(prefix="/jobs/{job_id}", tags=["results"])
# For players and webhook receivers, which have no key: the signature in the link is the permission
link_router = APIRouter(prefix="/jobs/{job_id}", tags=["results"])

_VIDEO = {"schema": {"type": "string", "format": "binary"}}
_VIDEO_TYPES = dict.fromkeys((kind.content_type for kind in OUTPUTS.values()), _VIDEO)
# The range stands for JSON, the result of a job that analyzed a video: clients that are generated from a document that
# names `application/json` parse videos as JSON.
_FILE_TYPES = _VIDEO_TYPES | {"application/*": {"schema": {}}}
_FILE_HEADERS = {
    "ETag": {"schema": {"type": "string"}, "description": "Hash of the content"},
    "Accept-Ranges": {"schema": {"type": "string", "enum": ["bytes", "none"]}},
    "Content-Disposition": {"schema": {"type": "string"}},
}
_RANGE_HEADER = {"Content-Range": {"schema": {"type": "string"}}}
RESULT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file", "content": _FILE_TYPES, "headers": _FILE_HEADERS},
    206: {"description": "The requested range", "content": _VIDEO_TYPES, "headers": _FILE_HEADERS | _RANGE_HEADER},
    304: {"description": "If-None-Match names the current file"},
    307: {
        "description": "The object store serves the file at a link that expires",
        "headers": {"Location": {"schema": {"type": "string"}, "description": "Presigned link"}},
    },
}
_EXCERPTS = {"poster": (poster_key, "image/jpeg"), "preview": (preview_key, "video/mp4")}


# Of every call that sends a file of a job.
FILE_REFUSALS = (
    "too_many_open",
    "job_not_found",
    "record_unreadable",
    "result_not_ready",
    "range_not_satisfiable",
    "storage_failed",
    "service_unavailable",
)


def excerpt_responses(content_type: str) -> dict[int | str, dict[str, Any]]:
    files = {
        status: RESULT_RESPONSES[status] | ({"content": {content_type: _VIDEO}} if status in (200, 206) else {})
        for status in (200, 206, 304)
    }
    return files | refusals(*FILE_REFUSALS)


RESULT_REFUSALS = refusals(
    "unauthorized",
    "forbidden",
    "link_invalid",
    "cross_site_refused",
    "host_not_allowed",
    "rate_limited",
    *FILE_REFUSALS,
)
RESULT_PARAMETERS = {
    "parameters": [
        {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": description}
        for name, description in {
            "Range": "`bytes=first-last`, one range",
            "If-Match": "ETag: 412 if the file has another one",
            "If-Range": "ETag: send the whole file if it has changed",
            "If-None-Match": "ETag: 304 if it has not changed",
        }.items()
    ]
}


_signature = APIKeyQuery(
    name="signature",
    auto_error=False,
    scheme_name=LINK_SCHEME,
    description="Part of the link to a result, with its expiry time `expires`; needs no key",
)


async def downloader(
    job_id: JobId,
    request: Request,
    parts: WithDependencies,
    credentials: WithKey,
    signature: Annotated[str | None, Security(_signature)],
    expires: LinkExpires | None = None,
    key: LinkHolder = "",
) -> Caller:
    """Authorize a download: by a signed link, or by a key that may read the job."""
    if signature is None:
        return await admit(request, parts, credentials, Scope.READ)
    await run_in_threadpool(check_link, parts, "GET", f"jobs/{job_id}/result", expires, key, signature)
    request.state.headers = EMBEDDABLE
    return ANYONE


WithDownloader = Annotated[Caller, Depends(downloader)]


class Evaluation(BaseModel):
    """Metrics of a result. `engine` and `synthetic_weights` tell how it was made."""

    job_id: str
    engine: str | None
    synthetic_weights: bool = Field(
        description="True: made with generated checkpoints, for tests; the numbers are meaningless"
    )
    metrics: list[MetricResult]
    curves: EvaluationCurves | None = Field(
        description="Values per frame, as far as measured; null if none were stored"
    )


@link_router.get(
    "/result",
    operation_id="getResult",
    summary="Download the result",
    response_class=Response,
    responses=RESULT_RESPONSES | RESULT_REFUSALS,
    openapi_extra=RESULT_PARAMETERS,
)
def get_result(job_id: JobId, request: Request, parts: WithDependencies, caller: WithDownloader) -> Response:
    """Redirects to a presigned link if the object store offers one, else sends the file, with ranges."""
    job = find_job(parts, caller, job_id)
    result = result_of(job)
    check_if_match(request.headers, served_result(job_id, result).etag)
    link = parts.objects.presign_get(result.key, parts.settings.link_ttl_s, _download_name(job_id, result))
    if link is not None:
        return RedirectResponse(link, status_code=307, headers={"Cache-Control": "no-store"})
    return file_response(request, parts, job.owner, served_result(job_id, result))


@link_router.head(
    "/result",
    operation_id="headResult",
    summary="Size, type and ETag of the result",
    response_class=Response,
    responses={
        200: {"description": "The headers of the file", "headers": _FILE_HEADERS},
        304: RESULT_RESPONSES[304],
        **{status: {"description": entry["description"]} for status, entry in RESULT_REFUSALS.items() if status != 416},
    },
    openapi_extra=RESULT_PARAMETERS,
)
def head_result(job_id: JobId, request: Request, parts: WithDependencies, caller: WithDownloader) -> Response:
    """Never redirected, because a presigned link is valid for GET only."""
    file = served_result(job_id, result_of(find_job(parts, caller, job_id)))
    check_if_match(request.headers, file.etag)
    if is_unchanged(request.headers, file.etag):
        return Response(status_code=304, headers=file.headers)
    return Response(headers=file.headers | {"Content-Length": str(file.size_bytes)}, media_type=file.content_type)


@router.get(
    "/poster.jpg",
    operation_id="getPoster",
    summary="A picture from the middle of the result",
    response_class=Response,
    responses=excerpt_responses("image/jpeg"),
    openapi_extra=RESULT_PARAMETERS,
)
def get_poster(job_id: JobId, request: Request, parts: WithDependencies, caller: WithCaller) -> Response:
    """JPEG, at most 960 pixels on its longer side."""
    return _get_excerpt(job_id, request, parts, caller, "poster")


@router.get(
    "/preview.mp4",
    operation_id="getPreview",
    summary="A small clip of the beginning of the result",
    response_class=Response,
    responses=excerpt_responses("video/mp4"),
    openapi_extra=RESULT_PARAMETERS,
)
def get_preview(job_id: JobId, request: Request, parts: WithDependencies, caller: WithCaller) -> Response:
    """H.264 and AAC, the first 4 seconds, at most 360 pixels on its longer side."""
    return _get_excerpt(job_id, request, parts, caller, "preview")


def _get_excerpt(
    job_id: str, request: Request, parts: Dependencies, caller: Caller, kind: Literal["poster", "preview"]
) -> Response:
    job = find_job(parts, caller, job_id)
    result_of(job)
    file = find_excerpt(parts, job, kind)
    if file is None:
        raise ServiceError("result_not_ready", f"This job has no {kind}.")
    return file_response(request, parts, job.owner, file)


def find_excerpt(parts: Dependencies, job: Job, kind: Literal["poster", "preview"]) -> ServedFile | None:
    """None: the job has no result, or the worker made none of it."""
    if job.result is None:
        return None
    make_key, content_type = _EXCERPTS[kind]
    return file_beside(parts, job.id, job.result, kind, make_key(job.result.key), content_type)


def file_beside(
    parts: Dependencies, job_id: str, result: ResultInfo, name: str, key: str, content_type: str
) -> ServedFile | None:
    """A file that was made with a result, if it was. name: in its ETag and file name."""
    try:
        size = parts.objects.info(key).size_bytes
    except ObjectNotFoundError:
        return None
    file_name = f"{job_id}-{name}.{key.rpartition('.')[2]}"
    return ServedFile(key, size, f'"{result.sha256}-{name}"', content_type, file_name)


@router.get(
    "/evaluation",
    operation_id="getEvaluation",
    summary="Metrics of the result",
    response_model=Evaluation,
    responses=refusals("job_not_found", "record_unreadable", "evaluation_not_ready", "service_unavailable"),
)
def get_evaluation(job_id: JobId, parts: WithDependencies, caller: WithCaller) -> Response:
    job = find_job(parts, caller, job_id)
    if job.status is not JobStatus.SUCCEEDED:
        raise ServiceError("evaluation_not_ready", f"The job is {job.status.value}; it has no evaluation.")
    if job.evaluation_pending:
        raise ServiceError("evaluation_not_ready", "The evaluation is still running; `job.evaluated` tells its end.")
    return view_response(
        Evaluation(
            job_id=job.id,
            engine=job.render.engine if job.render else None,
            synthetic_weights=job.render.synthetic_weights if job.render else False,
            metrics=job.evaluation or [],
            curves=_curves_of(parts, job.result) if job.result else None,
        )
    )


def _curves_of(parts: Dependencies, result: ResultInfo) -> EvaluationCurves | None:
    """None for jobs of older workers, which stored no curves, and of newer ones, whose curves have another shape."""
    try:
        document = b"".join(parts.objects.read(curves_key(result.key)))
        return EvaluationCurves.model_validate_json(document)
    except (ObjectNotFoundError, ValidationError):
        return None


def result_of(job: Job) -> ResultInfo:
    if job.result is None or job.status is not JobStatus.SUCCEEDED:
        raise ServiceError("result_not_ready", f"The job is {job.status.value}; it has no result.")
    return job.result


def _download_name(job_id: str, result: ResultInfo) -> str:
    return f"{job_id}.{result.key.rpartition('.')[2]}"


def served_result(job_id: str, result: ResultInfo) -> ServedFile:
    name = _download_name(job_id, result)
    return ServedFile(result.key, result.size_bytes, f'"{result.sha256}"', result.content_type, name)
