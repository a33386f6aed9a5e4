"""Analyses of videos: submit one, read who is in it, and a picture of each person."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import ValidationError

from api.access import WithCaller
from api.dependencies import Dependencies, WithDependencies
from api.jobs import (
    ACCEPTED_ANSWERS,
    SUBMISSION_REFUSALS,
    JobId,
    WithSubmission,
    find_job,
    view_response,
)
from api.openapi import ANALYSIS_FORM_BODY, ANALYSIS_JSON_BODY
from api.problems import refusals
from api.results import RESULT_PARAMETERS, excerpt_responses, file_beside, file_response, result_of
from api.submission import refuse_json
from jobs.errors import ServiceError
from jobs.models import Job, JobView, ResultInfo
from jobs.names import portrait_key
from jobs.objects import ObjectNotFoundError
from retalking_core.vocabulary.options import PERSON_ID
from retalking_core.vocabulary.video_analysis import VideoAnalysis

router = APIRouter(tags=["analyses"])
_RENDERS_ONLY = ("unsupported_option", "engine_unavailable")
_SUBMITTED = ACCEPTED_ANSWERS | refusals(*(code for code in SUBMISSION_REFUSALS if code not in _RENDERS_ONLY))
Track = Annotated[str, Path(pattern=PERSON_ID, description="Id of a person", examples=["person_1"])]


@router.post(
    "/videos/analyze",
    operation_id="analyzeVideo",
    summary="Find out who is in a video and who speaks",
    status_code=202,
    response_model=JobView,
    responses=_SUBMITTED,
    openapi_extra=ANALYSIS_JSON_BODY,
)
async def analyze_video(call: WithSubmission) -> Response:
    """Makes a job of the kind `analyze`, which is polled, listed, canceled, retried and deleted as any job and sends
    the same webhooks. The video is referenced by `video_url` or `video_upload_id`; this path takes forms with the file
    as well. `GET /jobs/{job_id}/analysis` has the answer; its tracks are values of the option `face`."""
    return await call.accept(kind="analyze")


@router.post(
    "/videos/analyze/upload",
    operation_id="analyzeVideoFile",
    summary="Find out who is in a video that is sent along",
    status_code=202,
    response_model=JobView,
    responses=_SUBMITTED,
    openapi_extra=ANALYSIS_FORM_BODY,
)
async def analyze_video_file(call: WithSubmission) -> Response:
    """As `analyzeVideo`, with the file part `video` in a form; the other fields as form fields or in a JSON part
    `spec`."""
    refuse_json(call.request, "/videos/analyze")
    return await call.accept(kind="analyze")


@router.get(
    "/jobs/{job_id}/analysis",
    operation_id="getAnalysis",
    summary="Who is in the video",
    response_model=VideoAnalysis,
    responses=refusals("job_not_found", "record_unreadable", "result_not_ready", "service_unavailable"),
)
def get_analysis(job_id: JobId, parts: WithDependencies, caller: WithCaller) -> Response:
    """The result of a job of the kind `analyze`."""
    return view_response(_read_analysis(parts, _result_of_analysis(find_job(parts, caller, job_id))))


@router.get(
    "/jobs/{job_id}/people/{track}.jpg",
    operation_id="getPerson",
    summary="A picture of one person",
    response_class=Response,
    responses=excerpt_responses("image/jpeg"),
    openapi_extra=RESULT_PARAMETERS,
)
def get_person(job_id: JobId, track: Track, request: Request, parts: WithDependencies, caller: WithCaller) -> Response:
    """JPEG, at most 160 pixels on its longer side."""
    job = find_job(parts, caller, job_id)
    result = _result_of_analysis(job)
    file = file_beside(parts, job.id, result, track, portrait_key(result.key, track), "image/jpeg")
    if file is None:
        raise ServiceError("result_not_ready", f"The analysis lists no {track}; read its `people`.")
    return file_response(request, parts, job.owner, file)


def _result_of_analysis(job: Job) -> ResultInfo:
    if job.spec.kind != "analyze":
        raise ServiceError("result_not_ready", "This job rendered a video; `POST /v1/videos/analyze` analyzes one.")
    return result_of(job)


def _read_analysis(parts: Dependencies, result: ResultInfo) -> VideoAnalysis:
    try:
        return VideoAnalysis.model_validate_json(b"".join(parts.objects.read(result.key)))
    except (ObjectNotFoundError, ValidationError):
        message = "The analysis is of another version of the service; submit the video again."
        raise ServiceError("result_not_ready", message) from None
