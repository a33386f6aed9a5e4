"""Batches: up to 500 jobs in one request. Submit, list, follow, cancel, delete.

A batch is accepted as a whole or not at all. Its items become jobs in the background (worker/batches.py), by the same
checks and steps as `POST /jobs`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Annotated, cast

import anyio
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ValidationError
from redis.exceptions import RedisError

from api.access import Caller, WithCaller
from api.dependencies import Dependencies, WithDependencies
from api.jobs import (
    ACCEPTED_HEADERS,
    POLL_AFTER_S,
    CursorQuery,
    IdempotencyHeader,
    NextCursor,
    find_batch,
    view_response,
)
from api.limits import check_metadata, not_storable, read_json, too_large
from api.openapi import BATCH_BODY
from api.problems import FieldError, describe_errors, field_errors, refusals, request_id_of
from api.segments import stored_segments
from api.submission import (
    MAX_ITEMS,
    BatchSubmission,
    JobSubmission,
    check_address,
    check_item,
    read_json_body,
    referred_inputs,
)
from jobs.egress import receiver_of
from jobs.errors import ServiceError
from jobs.intake import KEEP_UPLOAD_S
from jobs.models import Batch, BatchPlace, BatchSummary, BatchView, JobSpec
from jobs.names import new_batch_id, upload_key
from jobs.objects import ObjectNotFoundError
from jobs.store import (
    ArrivalLostError,
    BatchNotFoundError,
    CreatedBatch,
    IdempotencyConflictError,
    IdempotencyKey,
    Origin,
    QuotaExceededError,
    RecordNotStorableError,
    WrongStateError,
)
from jobs.telemetry import current_traceparent
from jobs.view import summarize_batch, view_batch

# Of an uploaded list; a body is limited by max_json_bytes.
MAX_LIST_BYTES = 8 * 1024**2
# Names and values of all items together
MAX_VALUES = 200_000
# Listed in a refusal; a list with the same mistake in every line would fill a page.
MAX_ERRORS = 100
# Hosts that are still not resolved by then are left to the fetch, which checks every address again.
LOOKUPS_S = 20.0
CONCURRENT_LOOKUPS = 16
UPLOAD_ID = re.compile(r"up_[0-9a-f]{32}")

router = APIRouter(prefix="/batches", tags=["batches"])
BatchId = Annotated[str, Path(description="Id of a batch, `batch_` and 32 hex digits", examples=["batch_" + "0" * 32])]


_REFUSALS = [
    "malformed_json",
    "unsupported_media_type",
    "body_too_large",
    "request_timeout",
    "invalid_option",
    "unsupported_option",
    "engine_unavailable",
    "idempotency_conflict",
    "rate_limited",
    "quota_exceeded",
    "too_many_open",
    "storage_full",
    "upload_not_found",
    "url_not_allowed",
    "host_unresolved",
    "value_out_of_bounds",
    "priority_not_allowed",
    "service_unavailable",
]


@router.post(
    "",
    operation_id="submitBatch",
    summary="Submit up to 500 jobs",
    status_code=202,
    response_model=BatchView,
    responses={
        202: {
            "description": "Accepted; poll `Location`",
            "headers": {name: ACCEPTED_HEADERS[name] for name in ("Location", "Retry-After", "Idempotent-Replayed")},
        },
        **refusals(*_REFUSALS),
    },
    openapi_extra=BATCH_BODY,
)
async def submit_batch(
    request: Request, parts: WithDependencies, caller: WithCaller, idempotency_key: IdempotencyHeader = None
) -> Response:
    """All items are accepted, or none: `errors` of a refusal names every item to correct. An item that fails later (its
    upload is no video, its URL does not answer) fails as a job, and the others go on."""
    with parts.submissions.slot(caller.owner):
        created = await _accept(request, parts, caller, idempotency_key)
    headers = {"Location": f"{caller.base}/batches/{created.batch.id}", "Retry-After": str(POLL_AFTER_S)}
    if not created.is_new:
        headers["Idempotent-Replayed"] = "true"
    return await run_in_threadpool(_response, parts, caller, created.batch, 202, headers)


class BatchList(BaseModel):
    """One page of batches, newest first."""

    batches: list[BatchSummary]
    next_cursor: NextCursor


@router.get(
    "",
    operation_id="listBatches",
    summary="List batches, newest first",
    response_model=BatchList,
    responses=refusals("service_unavailable"),
)
def list_batches(
    parts: WithDependencies,
    caller: WithCaller,
    limit: Annotated[int, Query(ge=1, le=100, description="Batches a page")] = 20,
    cursor: CursorQuery = None,
) -> Response:
    page = parts.store.batches.page(cursor=cursor, limit=limit, owner=caller.only)
    batches = [summarize_batch(each, parts.settings, caller.base) for each in page.batches]
    return view_response(BatchList(batches=batches, next_cursor=page.next_cursor))


@router.get(
    "/{batch_id}",
    operation_id="getBatch",
    summary="Progress and failures of a batch",
    response_model=BatchView,
    responses={
        200: {"headers": {"Retry-After": ACCEPTED_HEADERS["Retry-After"]}},
        **refusals("batch_not_found", "record_unreadable", "service_unavailable"),
    },
)
def get_batch(batch_id: BatchId, parts: WithDependencies, caller: WithCaller) -> Response:
    """Its jobs are listed by `GET /jobs?batch=`."""
    batch = find_batch(parts, caller, batch_id)
    return _response(parts, caller, batch, 200, {} if batch.is_over else {"Retry-After": str(POLL_AFTER_S)})


@router.post(
    "/{batch_id}/cancel",
    operation_id="cancelBatch",
    summary="Cancel a live batch, leave a finished one unchanged",
    status_code=202,
    response_model=BatchView,
    responses=refusals("batch_not_found", "record_unreadable", "service_unavailable"),
)
def cancel_batch(batch_id: BatchId, parts: WithDependencies, caller: WithCaller) -> Response:
    """Items that are not jobs yet are dropped, jobs that are not over are canceled, results that exist stay."""
    find_batch(parts, caller, batch_id)
    for job_id in parts.store.batches.cancel(batch_id):
        parts.store.jobs.request_cancel(job_id, retention_s=parts.settings.retention_s)
    return _response(parts, caller, parts.store.batches.get(batch_id), 202)


@router.delete(
    "/{batch_id}",
    operation_id="deleteBatch",
    summary="Cancel a live batch, delete a finished one",
    status_code=202,
    response_model=BatchView,
    responses={
        202: {"description": "Was live: cancellation requested"},
        204: {"description": "Was finished: deleted; its jobs stay"},
        **refusals("batch_not_found", "record_unreadable", "service_unavailable"),
    },
)
def delete_batch(batch_id: BatchId, parts: WithDependencies, caller: WithCaller) -> Response:
    """Deletes the record of the batch. Its jobs stay until they are deleted or their retention ends."""
    find_batch(parts, caller, batch_id)
    try:
        parts.store.batches.delete(batch_id)
    except WrongStateError:
        return cancel_batch(batch_id, parts, caller)
    except BatchNotFoundError:  # deleted meanwhile
        pass
    return Response(status_code=204)


def _response(
    parts: Dependencies, caller: Caller, batch: Batch, status: int, headers: dict[str, str] | None = None
) -> Response:
    return view_response(view_batch(batch, parts.store, parts.settings, caller.base), status, headers)


async def _accept(request: Request, parts: Dependencies, caller: Caller, key: str | None) -> CreatedBatch:
    await run_in_threadpool(parts.space.check)
    raw = await read_json_body(request, parts)
    body, items = await run_in_threadpool(_read, parts, caller, raw)
    await _check_addresses(body, items, parts, caller)
    origin = Origin(
        caller.owner,
        caller.live_jobs(parts.settings.live_jobs_per_key),
        request_id=request_id_of(request),
        traceparent=current_traceparent(),
    )
    return await run_in_threadpool(_create, parts, body, items, key, origin)


def _read(parts: Dependencies, caller: Caller, raw: bytes) -> tuple[BatchSubmission, list[JobSubmission]]:
    """The submission and its items, checked except for their addresses."""
    value = read_json(raw, "The body", MAX_VALUES)
    if not isinstance(value, dict):
        raise ServiceError("invalid_request", "The body is not a JSON object.")
    body = _validate(raw)
    if (body.jobs is None) == (body.jobs_upload_id is None):
        errors = [FieldError(pointer="#/jobs", message="Send one of `jobs` and `jobs_upload_id`")]
        raise ServiceError("invalid_request", describe_errors(errors), errors=errors)
    check_metadata(body.metadata)
    items = body.jobs or _read_list(parts, caller, str(body.jobs_upload_id))
    workers = parts.store.workers.live()
    refused = []
    for index, item in enumerate(items):
        try:
            check_item(item, workers, parts, caller)
        except ServiceError as refusal:
            refused.append((index, refusal))
    refused += _missing_uploads(parts, caller, items)
    if refused:
        raise _refusal(refused)
    return body, items


def _read_list(parts: Dependencies, caller: Caller, upload_id: str) -> list[JobSubmission]:
    """The jobs of an uploaded list. Raises upload_not_found, body_too_large, malformed_json, invalid_request."""
    try:
        if parts.store.uploads.keep(upload_id, KEEP_UPLOAD_S, caller.only) is None:
            raise ObjectNotFoundError(upload_id)
        if parts.objects.info(upload_key(upload_id)).size_bytes > MAX_LIST_BYTES:
            raise too_large(MAX_LIST_BYTES, "list of jobs")
        raw = b"".join(parts.objects.read(upload_key(upload_id), 0, MAX_LIST_BYTES))
    except ObjectNotFoundError:
        message = f"There is no upload {upload_id}, or its file has not been sent yet."
        raise ServiceError("upload_not_found", message) from None
    lines = {number: line for number, line in enumerate(raw.splitlines(), start=1) if line.strip()}
    if not lines:
        raise ServiceError("invalid_request", "The uploaded list has no line with a job.")
    if len(lines) > MAX_ITEMS:
        raise ServiceError("invalid_request", f"The uploaded list has {len(lines)} jobs; a batch has {MAX_ITEMS}.")
    for number, line in lines.items():
        name = f"line {number} of the list"
        if len(line) > parts.settings.max_json_bytes:
            raise too_large(parts.settings.max_json_bytes, name)
        if not isinstance(read_json(line, name.capitalize()), dict):
            raise ServiceError("invalid_request", f"{name.capitalize()} is not a JSON object.")
    body = b'{"jobs":[' + b",".join(lines.values()) + b"]}"
    read_json(body, "The list", MAX_VALUES)
    return _validate(body).jobs or []


def _validate(raw: bytes) -> BatchSubmission:
    try:
        return BatchSubmission.model_validate_json(raw, strict=True)
    except ValidationError as failure:
        errors = field_errors(failure.errors(include_url=False, include_input=False, include_context=False))
    raise ServiceError("invalid_request", describe_errors(errors), errors=errors[:MAX_ERRORS])


def _missing_uploads(
    parts: Dependencies, caller: Caller, items: Sequence[JobSubmission]
) -> list[tuple[int, ServiceError]]:
    """Items whose upload does not exist. Those that do are kept until the items are jobs (worker/batches.py)."""
    exists: dict[str, bool] = {}
    missing = []
    for index, item in enumerate(items):
        for name, upload_id in item.uploads.items():
            if upload_id not in exists:
                kept = parts.store.uploads.keep(upload_id, parts.settings.upload_ttl_s, caller.only)
                exists[upload_id] = kept is not None
            if not exists[upload_id]:
                message = f"There is no upload {upload_id}"
                errors = [FieldError(pointer=f"#/{name}", message=message)]
                missing.append((index, ServiceError("upload_not_found", f"{message}.", errors=errors)))
    return missing


def _refusal(refused: Sequence[tuple[int, ServiceError]]) -> ServiceError:
    """One refusal for all items: their common code, or invalid_request."""
    errors = []
    for index, refusal in refused:
        own = cast(Sequence[FieldError], refusal.details.get("errors", ()))
        errors += [
            each.model_copy(update={"pointer": f"#/jobs/{index}{each.pointer.removeprefix('#')}"}) for each in own
        ] or [FieldError(pointer=f"#/jobs/{index}", message=refusal.message.rstrip("."))]
    codes = {refusal.code for _, refusal in refused}
    code = codes.pop() if len(codes) == 1 else "invalid_request"
    return ServiceError(code, describe_errors(errors), errors=errors[:MAX_ERRORS])


async def _check_addresses(
    body: BatchSubmission, items: Sequence[JobSubmission], parts: Dependencies, caller: Caller
) -> None:
    """Each host is looked up once, several at a time. Raises url_not_allowed, host_unresolved."""
    if body.webhook_url is not None:
        await check_address("webhook_url", body.webhook_url, parts, caller)
    first: dict[str, tuple[int, str, str]] = {}
    for index, item in enumerate(items):
        for name, url in item.addresses.items():
            first.setdefault(receiver_of(url) or url, (index, name, url))
    refused: list[tuple[int, ServiceError]] = []
    slots = anyio.CapacityLimiter(CONCURRENT_LOOKUPS)

    async def check(index: int, name: str, url: str) -> None:
        async with slots:
            try:
                await check_address(name, url, parts, caller)
            except ServiceError as refusal:
                refused.append((index, refusal))

    with anyio.move_on_after(LOOKUPS_S):
        async with anyio.create_task_group() as lookups:
            for place in first.values():
                lookups.start_soon(check, *place)
    if refused:
        raise _refusal(sorted(refused, key=lambda each: each[0]))


def _create(
    parts: Dependencies, body: BatchSubmission, items: Sequence[JobSubmission], key: str | None, origin: Origin
) -> CreatedBatch:
    settings, batch_id = parts.settings, new_batch_id()
    idempotency = IdempotencyKey(key, _fingerprint(parts, body, items), settings.idempotency_ttl_s) if key else None
    try:
        return parts.store.batches.create(
            batch_id,
            [_spec(item, BatchPlace(id=batch_id, index=index)) for index, item in enumerate(items)],
            origin=origin,
            most_waiting=settings.batch_items_per_key,
            webhook_url=body.webhook_url,
            metadata=body.metadata,
            idempotency=idempotency,
        )
    except QuotaExceededError:
        waiting = parts.store.batches.waiting(origin.owner)
        message = (
            f"{waiting} items of earlier batches wait to become jobs; with these {len(items)} there would be more than "
            f"{settings.batch_items_per_key}."
        )
        raise ServiceError("quota_exceeded", message, headers={"Retry-After": "60"}) from None
    except IdempotencyConflictError:
        message = "This Idempotency-Key was used before with a different batch."
        raise ServiceError("idempotency_conflict", message) from None
    except RecordNotStorableError as fault:
        raise not_storable() from fault
    except ArrivalLostError as fault:
        raise ServiceError("service_unavailable", "The job store took too long to store the batch.") from fault
    except RedisError as cause:
        return _find_created(parts, batch_id, cause)


def _find_created(parts: Dependencies, batch_id: str, cause: RedisError) -> CreatedBatch:
    """The connection broke during the creation: find out whether the batch was created."""
    try:
        return CreatedBatch(parts.store.batches.get(batch_id), True)
    except (BatchNotFoundError, RedisError):
        raise cause from None


def _spec(item: JobSubmission, place: BatchPlace) -> JobSpec:
    """Uploads are copied when the item becomes a job."""
    return JobSpec.of(referred_inputs(item), stored_segments(item.segments or ()), item.request(), batch=place)


def _fingerprint(parts: Dependencies, body: BatchSubmission, items: Sequence[JobSubmission]) -> str:
    """Files count by their content, where that is known: a client that repeats a batch uploads them again."""
    named = {upload_id for item in items for upload_id in item.uploads.values()}
    digests = {upload_id: parts.store.uploads.sha256(upload_id) or upload_id for upload_id in named}
    content = body.model_dump(mode="json", include={"webhook_url", "metadata"})
    content["jobs"] = [item.model_dump(mode="json") for item in items]
    text = json.dumps(content, sort_keys=True)
    text = UPLOAD_ID.sub(lambda found: digests.get(found[0], found[0]), text)
    return hashlib.sha256(text.encode()).hexdigest()
