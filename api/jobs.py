"""Jobs: submit, list, read, cancel, delete, redeliver the webhook."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import anyio
from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field, StringConstraints

from api.access import Caller, WithCaller, caller_of
from api.dependencies import Dependencies, WithDependencies, dependencies_of
from api.openapi import FORM_BODY, JSON_BODY
from api.problems import refusals
from api.submission import accept_submission, refuse_json
from api.waiting import MAX_WAIT_S, preferred_wait_s
from jobs.errors import ServiceError
from jobs.models import Batch, Job, JobKind, JobStatus, JobView
from jobs.names import is_batch_id, is_job_id, job_prefix
from jobs.store import BatchNotFoundError, JobNotFoundError, QueueEstimate, RecordUnreadableError, WrongStateError
from jobs.view import view_job

logger = logging.getLogger("retalking.api")
router = APIRouter(tags=["jobs"])

POLL_AFTER_S = 1
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")
WaitQuery = Annotated[
    int | None,
    Query(
        ge=0, le=MAX_WAIT_S, description="Answer when the job is over, or after this many seconds; as `Prefer: wait`"
    ),
]
PreferHeader = Annotated[
    str | None,
    Header(description=f"`wait=N`: as the parameter `wait`, at most {MAX_WAIT_S}; other preferences are ignored"),
]
NextCursor = Annotated[str | None, Field(description="Pass it as `cursor` for the following page; null at the end")]
# A number is no time, although pydantic reads it as seconds since 1970
Time = Annotated[AwareDatetime, BeforeValidator(lambda text: text if _RFC_3339.match(str(text)) else "no time")]
MetadataFilter = Annotated[str, StringConstraints(pattern=r"^[^=]+=", max_length=512)]
CursorQuery = Annotated[str | None, Query(pattern=r"^c[0-9]{1,15}$", description="`next_cursor` of the page before")]
JobId = Annotated[str, Path(description="Id of a job, `job_` and 32 hex digits", examples=["job_" + "0" * 32])]
IdempotencyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key with the same request returns the same job; visible ASCII",
    ),
]
SUBMISSION_REFUSALS = [
    "malformed_json",
    "malformed_form",
    "unsupported_media_type",
    "body_too_large",
    "request_timeout",
    "invalid_option",
    "unsupported_option",
    "segments_too_many",
    "segments_overlap",
    "segment_out_of_range",
    "segment_too_short",
    "segment_end_before_start",
    "segment_audio_missing",
    "audio_files_too_many",
    "engine_unavailable",
    "idempotency_conflict",
    "rate_limited",
    "quota_exceeded",
    "too_many_open",
    "storage_quota_exceeded",
    "storage_full",
    "upload_not_found",
    "url_not_allowed",
    "host_unresolved",
    "file_empty",
    "container_unsupported",
    "value_out_of_bounds",
    "priority_not_allowed",
    "record_unreadable",
    "service_unavailable",
]
RETRY_REFUSALS = [
    "job_not_found",
    "retry_not_possible",
    "invalid_option",
    "unsupported_option",
    "engine_unavailable",
    "idempotency_conflict",
    "rate_limited",
    "quota_exceeded",
    "too_many_open",
    "storage_quota_exceeded",
    "storage_full",
    "storage_failed",
    "url_not_allowed",
    "host_unresolved",
    "priority_not_allowed",
    "record_unreadable",
    "service_unavailable",
]
ACCEPTED_HEADERS = {
    "Location": {"description": "Where the job is", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait before polling again", "schema": {"type": "integer"}},
    "Preference-Applied": {
        "description": "`wait=N`: the seconds that the call was prepared to wait",
        "schema": {"type": "string"},
    },
    "Idempotent-Replayed": {
        "description": "`true`: the Idempotency-Key matched an existing job",
        "schema": {"type": "string", "enum": ["true"]},
    },
}


class JobListLinks(BaseModel):
    """Addresses of this page and the one after it."""

    self: str
    next: str | None = None


class JobList(BaseModel):
    """One page of jobs, newest first."""

    jobs: list[JobView]
    next_cursor: NextCursor
    links: JobListLinks


ACCEPTED_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The job was over within `wait` seconds", "headers": ACCEPTED_HEADERS, "model": JobView},
    202: {"description": "Accepted; poll `Location`", "headers": ACCEPTED_HEADERS},
}
_SUBMITTED = ACCEPTED_ANSWERS | refusals(*SUBMISSION_REFUSALS)


@dataclass(frozen=True)
class Submission:
    """A call that makes a job: what all of them take, and how they answer. wait: seconds."""

    request: Request
    parts: Dependencies
    caller: Caller
    idempotency_key: str | None
    wait: int | None

    async def accept(self, *, kind: JobKind = "render", retry_of: Job | None = None) -> Response:
        """The job of the request's body, or of the one to retry."""
        parts, caller = self.parts, self.caller
        created = await accept_submission(self.request, parts, caller, self.idempotency_key, retry_of, kind)
        headers = {"Location": f"{caller.base}/jobs/{created.job.id}"}
        if not created.is_new:
            headers["Idempotent-Replayed"] = "true"
        wait_s = _wait_s(self.request, self.wait, headers)
        if wait_s is None:
            body = await run_in_threadpool(view, parts, created.job, caller)
        else:
            body = await _wait_for_end(parts, caller, created.job.id, wait_s)
        is_answered = wait_s is not None and body.status.is_over
        if not is_answered:
            headers["Retry-After"] = str(POLL_AFTER_S)
        return view_response(body, 200 if is_answered else 202, headers)


def _submission(
    request: Request,
    parts: WithDependencies,
    caller: WithCaller,
    idempotency_key: IdempotencyHeader = None,
    prefer: PreferHeader = None,
    wait: WaitQuery = None,
) -> Submission:
    return Submission(request, parts, caller, idempotency_key, wait)


WithSubmission = Annotated[Submission, Depends(_submission)]


def _wait_s(request: Request, wait: int | None, headers: dict[str, str]) -> int | None:
    """How long the caller wants to wait: the parameter, or the preference, which `headers` then confirms."""
    preferred = preferred_wait_s(request.headers.getlist("prefer"))
    if wait is None and preferred is not None:
        headers["Preference-Applied"] = f"wait={preferred}"
    return preferred if wait is None else wait


async def _wait_for_end(parts: Dependencies, caller: Caller, job_id: str, wait_s: float) -> JobView:
    """The job when it is over, or as it is after wait_s."""
    ends_at = anyio.current_time() + wait_s
    with parts.changes.watch(job_id, ends_only=True) as watch:
        while True:
            job = await parts.in_waiter_thread(find_job, parts, caller, job_id)
            left_s = ends_at - anyio.current_time()
            if job.status.is_over or left_s <= 0 or parts.changes.is_closing:
                return await parts.in_waiter_thread(view, parts, job, caller)
            await watch.wait(left_s)


@router.post(
    "/jobs",
    operation_id="submitJob",
    summary="Submit a job by reference",
    status_code=202,
    response_model=JobView,
    responses=_SUBMITTED,
    openapi_extra=JSON_BODY,
)
async def submit_job(call: WithSubmission) -> Response:
    """Inputs are referenced by `video_url` or `video_upload_id` (`audio_...`); with `segments`, each of them references
    its speech. This path takes forms with files as well; in this document they have a path of their own, because
    generated clients know one body per operation."""
    return await call.accept()


@router.post(
    "/jobs/upload",
    operation_id="submitJobFiles",
    summary="Submit a job with its files",
    status_code=202,
    response_model=JobView,
    responses=_SUBMITTED,
    openapi_extra=FORM_BODY,
)
async def submit_job_files(call: WithSubmission) -> Response:
    """Files are streamed, never held in memory. A form takes `video`, `audio` and optionally `expression` (a picture)
    as files; with `segments`, each of them names the file part that has its speech. Options are form fields (nested
    ones as JSON text or dotted names such as `output.crf`), or a single JSON part `spec`. An input that is not sent as
    a file is referenced as in `submitJob`."""
    refuse_json(call.request, "/jobs")
    return await call.accept()


@router.api_route("/jobs/upload", methods=["GET", "PUT", "PATCH", "DELETE"], include_in_schema=False)
def refuse_method() -> None:
    """`upload` is not the id of a job."""
    raise HTTPException(405)


@router.get(
    "/jobs",
    operation_id="listJobs",
    summary="List jobs, newest first",
    response_model=JobList,
    responses=refusals("batch_not_found", "service_unavailable"),
)
def list_jobs(
    parts: WithDependencies,
    caller: WithCaller,
    status: Annotated[
        list[JobStatus] | None, Query(description="Only jobs in this status; repeat it for several")
    ] = None,
    created_after: Annotated[Time | None, Query(description="Only jobs created at this time or later")] = None,
    created_before: Annotated[Time | None, Query(description="Only jobs created before this time")] = None,
    metadata: Annotated[
        list[MetadataFilter] | None,
        Query(description="`name=value`: only jobs whose metadata have this value; repeat it for several names"),
    ] = None,
    webhook: Annotated[
        Literal["undelivered"] | None, Query(description="Only jobs with an event that is not delivered")
    ] = None,
    engine: Annotated[
        str | None, Query(max_length=40, description="Only jobs that this engine rendered, or that ask for it")
    ] = None,
    batch: Annotated[
        str | None, Query(pattern=r"^batch_[0-9a-f]{32}$", description="Only the items of this batch that are jobs")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Jobs a page")] = 20,
    cursor: CursorQuery = None,
) -> Response:
    """With filters, a page may have fewer jobs than `limit`, even none, although `next_cursor` leads to more."""
    pairs = [(name, value) for name, _, value in (each.partition("=") for each in metadata or ())]

    def matches(job: Job) -> bool:
        return (
            (not status or job.status in status)
            and (created_before is None or job.created_at < created_before)
            and (engine is None or engine == (job.render.engine if job.render else job.spec.request.engine))
            and all(_text(job.spec.request.metadata.get(name)) == value for name, value in pairs)
            and (webhook is None or any(each.state != "delivered" for each in parts.store.webhooks.deliveries(job.id)))
        )

    if batch is not None:
        find_batch(parts, caller, batch)
    is_filtered = (
        len(status or ()) > (1 if batch is None else 0) or created_before or pairs or webhook or engine is not None
    )
    page = parts.store.jobs.page(
        status=status[0] if status and len(status) == 1 and batch is None else None,
        cursor=cursor,
        limit=limit,
        owner=caller.only,
        matches=matches if is_filtered else None,
        not_before=created_after,
        batch=batch,
    )
    query = {
        "status": [each.value for each in status or ()],
        "created_after": created_after and created_after.isoformat(),
        "created_before": created_before and created_before.isoformat(),
        "metadata": metadata,
        "webhook": webhook,
        "engine": engine,
        "batch": batch,
        "limit": limit,
    }

    def link(at: str | None) -> str:
        given = {key: value for key, value in {**query, "cursor": at}.items() if value}
        return f"{caller.base}/jobs?{urlencode(given, doseq=True)}"

    body = JobList(
        jobs=_views(parts, page.jobs, caller),
        next_cursor=page.next_cursor,
        links=JobListLinks(self=link(cursor), next=link(page.next_cursor) if page.next_cursor else None),
    )
    return view_response(body)


def _text(value: Any) -> str | None:
    """A value of the metadata as it is written in a filter: a string as it is, anything else as JSON; None: absent."""
    return value if value is None or isinstance(value, str) else json.dumps(value, separators=(",", ":"))


@router.get(
    "/jobs/{job_id}",
    operation_id="getJob",
    summary="Status, progress, result link, evaluation, webhook log",
    response_model=JobView,
    responses={
        200: {"headers": {name: ACCEPTED_HEADERS[name] for name in ("Retry-After", "Preference-Applied")}},
        **refusals("job_not_found", "record_unreadable", "service_unavailable"),
    },
)
async def get_job(request: Request, job_id: JobId, prefer: PreferHeader = None, wait: WaitQuery = None) -> Response:
    # Not injected: polls are most of all requests, and FastAPI takes long to resolve a dependency
    parts, caller = dependencies_of(request), caller_of(request)
    headers: dict[str, str] = {}
    wait_s = _wait_s(request, wait, headers)
    if wait_s is None:
        body = await run_in_threadpool(_find_view, parts, caller, job_id)
    else:
        body = await _wait_for_end(parts, caller, job_id, wait_s)
    if not body.status.is_over:
        headers["Retry-After"] = str(POLL_AFTER_S)
    return view_response(body, headers=headers)


@router.delete(
    "/jobs/{job_id}",
    operation_id="deleteJob",
    summary="Cancel a live job, delete a finished one",
    status_code=202,
    response_model=JobView,
    responses={
        202: {"description": "Was live: cancellation requested"},
        204: {"description": "Was finished: deleted with its files"},
        **refusals("job_not_found", "record_unreadable", "service_unavailable"),
    },
)
def delete_job(job_id: JobId, parts: WithDependencies, caller: WithCaller) -> Response:
    """A job whose record cannot be read is deleted too, with its files."""
    try:
        job = find_job(parts, caller, job_id)
    except RecordUnreadableError:
        parts.objects.delete_prefix(job_prefix(job_id))
        parts.store.quarantine.drop("job", job_id)
        return Response(status_code=204)
    if not job.status.is_over:
        return cancel_job(job_id, parts, caller)
    # Files first: if this fails half-way, the record still leads the janitor to the remaining files.
    parts.objects.delete_prefix(job_prefix(job_id))
    parts.store.jobs.delete(job_id)
    return Response(status_code=204)


@router.post(
    "/jobs/{job_id}/cancel",
    operation_id="cancelJob",
    summary="Cancel a live job, leave a finished one unchanged",
    status_code=202,
    response_model=JobView,
    responses=refusals("job_not_found", "record_unreadable", "service_unavailable"),
)
def cancel_job(job_id: JobId, parts: WithDependencies, caller: WithCaller) -> Response:
    """Never deletes, unlike a `DELETE` that is repeated or arrives just after the job finished."""
    find_job(parts, caller, job_id)
    job = parts.store.jobs.request_cancel(job_id, retention_s=parts.settings.retention_s)
    return view_response(view(parts, job, caller), 202)


@router.post(
    "/jobs/{job_id}/retry",
    operation_id="retryJob",
    summary="Submit a failed or canceled job again",
    status_code=202,
    response_model=JobView,
    responses=ACCEPTED_ANSWERS | refusals(*RETRY_REFUSALS),
)
async def retry_job(job_id: JobId, call: WithSubmission) -> Response:
    """Makes a new job of the same request, which belongs to the caller and names the old one in `retry_of`. It has its
    own copies of the input files; inputs given by URL are fetched again."""
    job = await run_in_threadpool(find_job, call.parts, call.caller, job_id)
    if job.status not in (JobStatus.FAILED, JobStatus.CANCELED):
        raise ServiceError("retry_not_possible", f"The job is {job.status.value}; only failed and canceled jobs retry.")
    return await call.accept(retry_of=job)


@router.post(
    "/jobs/{job_id}/webhook/redeliver",
    operation_id="redeliverWebhook",
    summary="Redeliver the webhook",
    status_code=202,
    response_model=JobView,
    responses=refusals(
        "job_not_found", "record_unreadable", "webhook_not_configured", "job_not_finished", "service_unavailable"
    ),
    tags=["webhooks"],
)
def redeliver_webhook(job_id: JobId, parts: WithDependencies, caller: WithCaller) -> Response:
    """Redelivers the last event of the job and every event that was given up, with their original ids."""
    job = find_job(parts, caller, job_id)
    if job.spec.request.webhook_url is None:
        raise ServiceError("webhook_not_configured", "This job was submitted without `webhook_url`.")
    try:
        parts.store.webhooks.redeliver(job_id)
    except WrongStateError:
        if job.status.is_over:
            message = "This job has no event to deliver: none that occurred is in its `webhook_events`."
            raise ServiceError("webhook_not_configured", message) from None
        raise ServiceError("job_not_finished", "This job has no event to redeliver yet.") from None
    return view_response(view(parts, parts.store.jobs.get(job_id), caller), 202)


def find_job(parts: Dependencies, caller: Caller, job_id: str) -> Job:
    """The job. Raises JobNotFoundError, also for malformed ids and for jobs of another account."""
    with _own_records(caller, job_id):
        return _own(caller, parts.store.jobs.get(job_id))


def _find_view(parts: Dependencies, caller: Caller, job_id: str) -> JobView:
    """view() of find_job(), with one round trip to the store."""
    with _own_records(caller, job_id):
        job, estimate = parts.store.jobs.get_with_estimate(job_id)
        return view(parts, _own(caller, job), caller, estimate)


@contextmanager
def _own_records(caller: Caller, job_id: str) -> Iterator[None]:
    """Raises JobNotFoundError for a malformed id, and instead of RecordUnreadableError about another account's job."""
    if not is_job_id(job_id):
        raise JobNotFoundError(job_id)
    try:
        yield
    except RecordUnreadableError as unreadable:
        if caller.only not in (None, unreadable.owner):
            raise JobNotFoundError(job_id) from None
        raise


def _own(caller: Caller, job: Job) -> Job:
    if caller.only not in (None, job.owner):
        raise JobNotFoundError(job.id)
    return job


def find_batch(parts: Dependencies, caller: Caller, batch_id: str) -> Batch:
    """The batch. Raises batch_not_found, also for malformed ids and for batches of another account."""
    not_found = ServiceError("batch_not_found", "There is no batch with this id.")
    if not is_batch_id(batch_id):
        raise not_found
    try:
        batch = parts.store.batches.get(batch_id)
    except BatchNotFoundError:
        raise not_found from None
    except RecordUnreadableError as unreadable:
        if caller.only not in (None, unreadable.owner):
            raise not_found from None
        raise
    if caller.only not in (None, batch.owner):
        raise not_found
    return batch


def view(parts: Dependencies, job: Job, caller: Caller, estimate: QueueEstimate | None = None) -> JobView:
    """The job as the caller sees it. Its links end when the caller's key is revoked, not the owner's."""
    return view_job(
        job,
        parts.store,
        parts.objects,
        parts.settings,
        parts.link_key,
        caller.key_id,
        base=caller.base,
        estimate=estimate,
    )


def _views(parts: Dependencies, jobs: Sequence[Job], caller: Caller) -> list[JobView]:
    """view() of each, with one round trip for all that are queued."""
    queued = [job.id for job in jobs if job.status is JobStatus.QUEUED]
    estimates = dict(zip(queued, parts.store.jobs.queue_estimates(queued), strict=True)) if queued else {}
    return [view(parts, job, caller, estimates.get(job.id)) for job in jobs]


def view_response(body: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Serialized once by pydantic; FastAPI would validate and serialize again."""
    return Response(body.model_dump_json(), status_code=status, headers=headers, media_type="application/json")
