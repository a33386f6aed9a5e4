"""From a request to a stored job: receive, check, store and enqueue.

A submission makes exactly one job or none, with all of its files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import anyio
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from python_multipart.multipart import parse_options_header
from redis.exceptions import RedisError

from api.access import Caller
from api.dependencies import Dependencies
from api.engines import check_engine
from api.forms import SLOTS, ReceivedForm, fields_to_body, receive_form
from api.limits import check_metadata, not_storable, read_body, read_json
from api.paths import VERSION
from api.problems import UNKNOWN_FIELD, FieldError, describe_errors, field_errors, request_id_of
from api.segments import (
    UPLOAD,
    SegmentList,
    check_segments,
    error_code_of,
    is_part_name,
    parts_of,
    stored_segments,
)
from api.staging import StorageReservation, announced_bytes, arrival_lost, tracked_arrival
from jobs.egress import UrlNotAllowedError, check_url_async
from jobs.errors import ServiceError
from jobs.intake import check_speech, check_upload
from jobs.messages import MessageNotSentError, send_job
from jobs.models import InputPart, InputRef, Job, JobHandling, JobKind, JobRequest, JobSpec, SegmentOptions, WorkerInfo
from jobs.names import export_key, input_key, job_prefix, new_job_id
from jobs.objects import ObjectNotFoundError, ObjectStoreError
from jobs.opening import byte_quota
from jobs.store import (
    ArrivalLostError,
    Created,
    IdempotencyConflictError,
    IdempotencyKey,
    JobNotFoundError,
    Origin,
    QuotaExceededError,
    RecordNotStorableError,
    RecordUnreadableError,
)
from jobs.telemetry import current_traceparent

# Jobs of one batch
MAX_ITEMS = 500

UploadId = Annotated[str, StringConstraints(pattern=r"^up_[0-9a-f]{32}$")]
Address = Annotated[str, StringConstraints(min_length=1, max_length=2048)]


class JobSubmission(JobRequest):
    """A job by reference: the addresses or upload ids of its inputs, and all options."""

    video_url: Address | None = Field(None, description="http(s) address of the video or still image")
    video_upload_id: UploadId | None = Field(None, description="Id from `POST /uploads`")
    audio_url: Address | None = Field(None, description="http(s) address of the speech")
    audio_upload_id: UploadId | None = Field(None, description="Id from `POST /uploads`")
    segments: SegmentList | None = Field(
        None,
        description="Who speaks when, each with a speech of its own, instead of one `audio` for the whole video. "
        "Between segments the picture passes through unchanged",
    )

    @property
    def addresses(self) -> dict[str, str]:
        """Every URL that the service would connect to, by the path of its field; a repeated one once."""
        named = {
            "webhook_url": self.webhook_url,
            "video_url": self.video_url,
            "audio_url": self.audio_url,
            "output/put_url": self.output.put_url,
        }
        for number, segment in enumerate(self.segments or ()):
            named[f"segments/{number}/audio"] = _reference(segment.audio)[0]
        given = {address: name for name, address in reversed(named.items()) if address is not None}
        return {name: address for address, name in reversed(given.items())}

    @property
    def uploads(self) -> dict[str, str]:
        """Every upload that it names, by the path of its field."""
        named = {"video_upload_id": self.video_upload_id, "audio_upload_id": self.audio_upload_id}
        sources = {"expression": self.expression}
        sources |= {f"segments/{number}/audio": segment.audio for number, segment in enumerate(self.segments or ())}
        named |= {name: _reference(source)[1] for name, source in sources.items()}
        return {name: upload_id for name, upload_id in named.items() if upload_id is not None}

    def request(self) -> JobRequest:
        return JobRequest.model_construct(**{name: getattr(self, name) for name in JobRequest.model_fields})


class AnalysisSubmission(JobHandling):
    """An analysis by reference: the address or upload id of the video."""

    video_url: Address | None = Field(None, description="http(s) address of the video or still image")
    video_upload_id: UploadId | None = Field(None, description="Id from `POST /uploads`")

    def as_job(self) -> JobSubmission:
        """The same submission in the shape that all kinds share: its options are defaults, and nothing is measured."""
        asked = {name: getattr(self, name) for name in AnalysisSubmission.model_fields}
        sent = set(self.model_fields_set)
        return JobSubmission.model_construct(sent, **asked, evaluate=[], evaluate_policy="none")


class BatchSubmission(BaseModel):
    """Many jobs by reference, and one webhook for the end of all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    jobs: list[JobSubmission] | None = Field(
        None, min_length=1, max_length=MAX_ITEMS, description="The jobs, each as in `POST /jobs`"
    )
    jobs_upload_id: UploadId | None = Field(
        None, description="Instead of `jobs`: an uploaded list (JSON Lines), one job a line, at most 8 MiB"
    )
    webhook_url: Address | None = Field(None, description="http(s) URL that receives the event `batch.completed`")
    metadata: dict[str, Any] = Field(default_factory=dict, description="Returned with the batch; as that of a job")


@dataclass(frozen=True)
class Submission:
    """fingerprint: hash of the whole request, including the contents of its files."""

    spec: JobSpec
    fingerprint: str


async def read_submission(
    request: Request, parts: Dependencies, caller: Caller, reservation: StorageReservation, kind: JobKind
) -> Submission:
    """Receive and check. Inputs from the request or from uploads are stored under the job's prefix, also if this
    raises: the caller removes them in that case."""
    # First, so that nobody sends 2 GB only to learn that the job store is unavailable.
    workers = await run_in_threadpool(parts.store.workers.live)
    body, form = await _receive(request, parts, reservation, kind)
    _check_sources(body, form, kind)
    if "expression" in form.files:
        body = body.model_copy(update={"expression": "image"})
    _check_request(body.request(), body.segments or (), workers, parts, caller, kind)
    for name, address in body.addresses.items():
        await check_address(name, address, parts, caller)
    spec = await run_in_threadpool(_resolve, body, form, parts, caller, reservation, kind)
    await run_in_threadpool(reservation.settle)
    return Submission(spec, _fingerprint(body, form, kind))


async def repeat_submission(
    job: Job, parts: Dependencies, caller: Caller, reservation: StorageReservation
) -> Submission:
    """The request of an earlier job, checked as a new one, with copies of its files."""
    asked = job.spec.request
    workers = await run_in_threadpool(parts.store.workers.live)
    _check_request(asked, job.spec.segments, workers, parts, caller, job.spec.kind)
    urls = {f"{part}_url": ref.url for part, ref in job.spec.inputs.items()}
    for name, address in {"webhook_url": asked.webhook_url, "output/put_url": asked.output.put_url, **urls}.items():
        if address is not None:
            await check_address(name, address, parts, caller)

    def copy_files() -> dict[InputPart, InputRef]:
        copies = {}
        for part, ref in job.spec.inputs.items():
            if ref.key is None and ref.upload_id is not None:  # an item of a batch that never got its files
                copies[part] = _copy_upload(parts, caller, part, ref.upload_id, reservation)
            elif ref.key is not None:
                key = input_key(reservation.arrival, part)
                reservation.add(ref.size_bytes or 0)
                try:
                    parts.objects.copy(ref.key, key)
                except ObjectNotFoundError:
                    message = f"The {part} of the job is not in the object store any more; submit it again."
                    raise ServiceError("storage_failed", message) from None
                copies[part] = ref.model_copy(update={"key": key})
        reservation.settle()
        return job.spec.inputs | copies

    inputs = await run_in_threadpool(copy_files)
    spec = JobSpec.of(inputs, job.spec.segments, asked, retry_of=job.id, kind=job.spec.kind)
    return Submission(spec, hashlib.sha256(f"retry of {job.id}".encode()).hexdigest())


async def _receive(
    request: Request, parts: Dependencies, reservation: StorageReservation, kind: JobKind
) -> tuple[JobSubmission, ReceivedForm]:
    media_type = media_type_of(request)
    if media_type == "multipart/form-data":
        await run_in_threadpool(reservation.announce, announced_bytes(request))
        form = await receive_form(request, parts, reservation)
        return _body_of_form(form, kind), form
    return _body_of_json(await read_json_body(request, parts), "The body", kind), ReceivedForm()


async def read_json_body(request: Request, parts: Dependencies) -> bytes:
    """Raises unsupported_media_type for any other body."""
    media_type = media_type_of(request)
    if media_type != "application/json":
        what = f"The content type {media_type[:100]!r} is" if media_type else "A body without a content type is"
        raise ServiceError("unsupported_media_type", f"{what} not accepted here.")
    _check_charset(request)
    return await read_body(request, parts.settings.max_json_bytes, parts.pace)


def _check_charset(request: Request) -> None:
    """JSON is UTF-8 (RFC 8259, section 8.1). Raises unsupported_media_type."""
    charset = parse_options_header(request.headers.get("content-type"))[1].get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise ServiceError("unsupported_media_type", f"The charset {charset[:40]!r} is not accepted; JSON is UTF-8.")


def refuse_json(request: Request, path: str) -> None:
    """On the path of a form. path: which takes JSON. Raises unsupported_media_type."""
    if media_type_of(request) == "application/json":
        raise ServiceError("unsupported_media_type", f"This path takes forms; send JSON to `POST {VERSION}{path}`.")


def media_type_of(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _body_of_form(form: ReceivedForm, kind: JobKind) -> JobSubmission:
    fields = dict(form.fields)
    spec = fields.pop("spec", None)
    if spec is None:
        return _validate(fields_to_body(fields), kind)
    if fields or len(spec) != 1:
        raise ServiceError("invalid_request", "Send the options once: as fields, or in one `spec` part.")
    return _body_of_json(spec[0].encode(), "The part `spec`", kind)


def _body_of_json(raw: bytes, what: str, kind: JobKind) -> JobSubmission:
    value = read_json(raw, what)
    if not isinstance(value, dict):
        raise ServiceError("invalid_request", f"{what} is not a JSON object.")
    return _validate(raw, kind)


def _validate(body: bytes | dict[str, Any], kind: JobKind) -> JobSubmission:
    """JSON is validated strictly (`"18"` is not a number); form fields are text and are converted."""
    try:
        asked = AnalysisSubmission if kind == "analyze" else JobSubmission
        found = asked.model_validate_json(body, strict=True) if isinstance(body, bytes) else asked.model_validate(body)
        return found.as_job() if isinstance(found, AnalysisSubmission) else found
    except ValidationError as failure:
        faults = failure.errors(include_url=False, include_input=False, include_context=False)
    if any(error["type"] == "json_invalid" for error in faults):
        raise ServiceError("malformed_json", "The body is not JSON.")
    errors = field_errors(faults)
    raise ServiceError(_code_of(faults), describe_errors(errors), errors=errors)


# Fields whose value is an option; the others say where inputs are.
OPTION_FIELDS = frozenset({*JobRequest.model_fields, "segments"})


def _code_of(errors: list[Any]) -> str:
    """invalid_option if an existing option has a bad value; invalid_request for unknown fields and everything else.
    Faults of segments that have a code of their own come first."""
    for code in map(error_code_of, errors):
        if code is not None:
            return code
    is_option = [
        error["type"] not in UNKNOWN_FIELD and error["loc"][:1] and error["loc"][0] in OPTION_FIELDS for error in errors
    ]
    return "invalid_option" if any(is_option) else "invalid_request"


def check_item(body: JobSubmission, workers: Sequence[WorkerInfo], parts: Dependencies, caller: Caller) -> None:
    """As a submission by reference is checked, without its addresses and uploads."""
    _check_sources(body, ReceivedForm(), "render")
    _check_request(body.request(), body.segments or (), workers, parts, caller)


def _check_request(
    request: JobRequest,
    segments: Sequence[SegmentOptions],
    workers: Sequence[WorkerInfo],
    parts: Dependencies,
    caller: Caller,
    kind: JobKind = "render",
) -> None:
    check_metadata(request.metadata)
    _check_priority(request, caller)
    _check_metrics(request, workers)
    if kind == "render":
        check_engine(request, segments, workers, parts.settings)
    _check_output(request, parts, caller)


def _check_priority(request: JobRequest, caller: Caller) -> None:
    if request.priority > caller.max_priority:
        message = f"priority: This key allows at most {caller.max_priority}, not {request.priority}."
        errors = [FieldError(pointer="#/priority", message=f"At most {caller.max_priority} with this key")]
        raise ServiceError("priority_not_allowed", message, errors=errors)


def _check_output(request: JobRequest, parts: Dependencies, caller: Caller) -> None:
    """Raises invalid_option for two destinations, and for a folder that the deployment does not allow."""
    output, allowed = request.output, parts.settings.output_prefixes
    if output.prefix is None:
        return
    message = ""
    if output.put_url is not None:
        message = "The result is put to `put_url` or below `prefix`; send one"
    elif export_key(output.prefix, allowed, caller.owner, "job", "mp4") is None:
        folders = f"these folders: {', '.join(allowed)}" if allowed else "no folder (RETALKING_OUTPUT_PREFIXES)"
        message = f"This deployment allows {folders}"
    if message:
        errors = [FieldError(pointer="#/output/prefix", message=message)]
        raise ServiceError("invalid_option", f"output.prefix: {message}.", errors=errors)


def _check_metrics(request: JobRequest, workers: Sequence[WorkerInfo]) -> None:
    """Raises invalid_option for a metric that no live worker computes. Without a live worker this cannot be checked."""
    known = {name for worker in workers for name in worker.metrics}
    unknown = [name for name in request.evaluate or () if name not in known]
    if workers and unknown:
        message = f"No live worker computes {', '.join(unknown)}; they compute {', '.join(sorted(known)) or 'nothing'}"
        raise ServiceError(
            "invalid_option", f"evaluate: {message}.", errors=[FieldError(pointer="#/evaluate", message=message)]
        )


def _sources(slot: Literal["video", "audio"], body: JobSubmission, form: ReceivedForm) -> list[str]:
    """How this input was given, for messages."""
    ways: Mapping[str, object] = {
        f"the file part `{slot}`": form.files.get(slot),
        f"`{slot}_url`": getattr(body, f"{slot}_url"),
        f"`{slot}_upload_id`": getattr(body, f"{slot}_upload_id"),
    }
    return [way for way, value in ways.items() if value is not None]


def _check_sources(body: JobSubmission, form: ReceivedForm, kind: JobKind) -> None:
    segments = body.segments or []
    named = {segment.audio for segment in segments if is_part_name(segment.audio)}
    errors = []
    needed: tuple[Literal["video", "audio"], ...] = ("video", "audio") if kind == "render" else ("video",)
    for slot in needed:
        given = _sources(slot, body, form)
        ways = f"the file part `{slot}`, `{slot}_url` or `{slot}_upload_id`"
        if slot == "audio" and segments:
            if given and not (slot in named and len(given) == 1 and slot in form.files):
                message = f"It was sent as {' and as '.join(given)}, but no segment uses it; name it in `segments`"
                errors.append(FieldError(pointer="#/audio", message=message))
        elif not given:
            more = ", or `segments`" if slot == "audio" else ""
            errors.append(FieldError(pointer=f"#/{slot}", message=f"It is missing; send one of {ways}{more}"))
        elif len(given) > 1:
            errors.append(FieldError(pointer=f"#/{slot}", message=f"It was sent as {' and as '.join(given)}; send one"))
    for name in form.files.keys() - ({*SLOTS, *named} if kind == "render" else {"video"}):
        message = f"No segment names this file; the other file parts are {', '.join(SLOTS)}"
        if kind == "analyze":
            message = "An analysis takes the file part `video` alone"
        errors.append(FieldError(pointer=f"#/{name}", message=message))
    if "webhook_events" in body.model_fields_set and body.webhook_url is None:
        errors.append(FieldError(pointer="#/webhook_events", message="It has no effect without `webhook_url`"))
    if kind == "render" and "expression" in form.files and body.expression not in ("neutral", "image"):
        errors.append(FieldError(pointer="#/expression", message="It was sent as a value and as a file; send one"))
    if "expression" not in form.files and body.expression == "image":
        message = "The picture is missing; send it as the file part `expression`, or name an upload"
        errors.append(FieldError(pointer="#/expression", message=message))
    if "expression" not in form.files and not body.expression.startswith(UPLOAD):
        message = "There is no picture; send it as the `expression` of the job"
        errors += [
            FieldError(pointer=f"#/segments/{number}/expression", message=message)
            for number, segment in enumerate(segments)
            if segment.expression == "image"
        ]
    if errors:
        raise ServiceError("invalid_request", describe_errors(errors), errors=errors)
    check_segments(segments, body, form.files.keys() - {"expression"})


def referred_inputs(body: JobSubmission) -> dict[InputPart, InputRef]:
    """The inputs that the body names. An upload has no key until it is copied for its job: it can serve many jobs."""
    given = {"video": (body.video_url, body.video_upload_id), "audio": (body.audio_url, body.audio_upload_id)}
    named = {part: source for source, part in parts_of(body.segments or ()).items()} | {"expression": body.expression}
    given |= {part: _reference(source) for part, source in named.items()}
    return {
        part: InputRef(kind="url", url=url) if url is not None else InputRef(kind="object", upload_id=upload_id)
        for part, (url, upload_id) in given.items()
        if (url, upload_id) != (None, None)
    }


def _reference(source: str) -> tuple[str | None, str | None]:
    """URL and upload id that a text names, each None if it names none."""
    return (
        source if source.startswith(("http://", "https://")) else None,
        source.removeprefix(UPLOAD) if source.startswith(UPLOAD) else None,
    )


def _resolve(
    body: JobSubmission,
    form: ReceivedForm,
    parts: Dependencies,
    caller: Caller,
    reservation: StorageReservation,
    kind: JobKind,
) -> JobSpec:
    """What the job is to do, with all its files under the job's prefix."""
    speech = {"audio": "audio"} if body.segments is None else parts_of(body.segments)
    inputs = referred_inputs(body)
    for name, part in [("video", "video"), *speech.items(), ("expression", "expression")]:
        file, ref = form.files.get(name), inputs.get(part)
        if file is not None:
            inputs[part] = InputRef(
                kind="object",
                key=file.key,
                size_bytes=file.size_bytes,
                sha256=file.sha256,
                filename=form.filenames[name] or None,
            )
        elif ref is not None and ref.upload_id is not None:
            inputs[part] = _copy_upload(parts, caller, part, ref.upload_id, reservation)
    spec = JobSpec.of(inputs, stored_segments(body.segments or ()), body.request(), kind=kind)
    check_speech(spec, parts.settings)
    return spec


async def check_address(name: str, address: str, parts: Dependencies, caller: Caller) -> None:
    """Raises url_not_allowed and host_unresolved, with the name of the field."""
    try:
        await check_url_async(address, parts.settings.allow_private_hosts, caller.owner)
    except UrlNotAllowedError as refusal:
        errors = [FieldError(pointer=f"#/{name}", message=refusal.message)]
        raise ServiceError(refusal.code, f"{name}: {refusal.message}", errors=errors) from None


def _copy_upload(
    parts: Dependencies, caller: Caller, part: InputPart, upload_id: str, reservation: StorageReservation
) -> InputRef:
    upload = check_upload(parts.store, parts.objects, parts.settings, part, upload_id, caller.only)
    reservation.add(upload.size_bytes)
    return upload.copy_to(parts.objects, input_key(reservation.arrival, part))


def _fingerprint(body: JobSubmission, form: ReceivedForm, kind: JobKind) -> str:
    content: dict[str, object] = {
        "body": body.model_dump(mode="json"),
        "files": {name: file.sha256 for name, file in form.files.items()},
    }
    if kind != "render":
        content["kind"] = kind
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


logger = logging.getLogger("retalking.api")


async def accept_submission(
    request: Request,
    parts: Dependencies,
    caller: Caller,
    key: str | None,
    retry_of: Job | None = None,
    kind: JobKind = "render",
) -> Created:
    """Receive, check, store, enqueue. key: the Idempotency-Key. retry_of: the job to repeat instead of a request body.
    A refused submission leaves no files behind."""
    with parts.submissions.slot(caller.owner):
        return await _accept(request, parts, caller, key, retry_of, kind)


async def _accept(
    request: Request, parts: Dependencies, caller: Caller, key: str | None, retry_of: Job | None, kind: JobKind
) -> Created:
    origin = Origin(
        caller.owner,
        caller.live_jobs(parts.settings.live_jobs_per_key),
        request_id=request_id_of(request),
        traceparent=current_traceparent(),
    )
    await run_in_threadpool(parts.space.check)
    if key is None:  # with a key it may repeat a job that exists
        await run_in_threadpool(_check_quota, parts, origin)
    job_id = new_job_id()
    reservation = StorageReservation(parts, job_id, byte_quota(parts.settings, caller.owner, caller.account))
    try:
        async with tracked_arrival(parts, job_id):
            if retry_of is None:
                submission = await read_submission(request, parts, caller, reservation, kind)
            else:
                submission = await repeat_submission(retry_of, parts, caller, reservation)
            created = await run_in_threadpool(_create, parts, job_id, submission, key, origin)
    except _OutcomeUnknownError as unknown:
        raise unknown.cause from None
    except BaseException:
        await _remove_staged(parts, job_id)
        raise
    if created.is_new:
        await run_in_threadpool(_send, parts, created.job)
    else:
        await _remove_staged(parts, job_id)
    return created


class _OutcomeUnknownError(Exception):
    """The job store failed during the creation and does not answer: the job may exist, so its files must stay. A retry
    with the same Idempotency-Key finds the job or creates it."""

    def __init__(self, cause: RedisError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _check_quota(parts: Dependencies, origin: Origin) -> None:
    """Check early, so that nobody sends 2 GB in vain; the check at the creation is the one that decides."""
    if origin.owner and parts.store.jobs.count_live(origin.owner) >= origin.live_jobs:
        raise _quota_exceeded(parts, origin)


def _quota_exceeded(parts: Dependencies, origin: Origin) -> ServiceError:
    """Retry-After is the mean run time of a job, between 1 s and 1 min."""
    wait_s = min(60, max(1, math.ceil(parts.store.jobs.mean_run_s() or 10)))
    headers = {
        "Retry-After": str(wait_s),
        "RateLimit-Policy": f'"live-jobs";q={origin.live_jobs}',
        "RateLimit": f'"live-jobs";r=0;t={wait_s}',
    }
    message = f"This account has {origin.live_jobs} unfinished jobs, which is its limit."
    return ServiceError("quota_exceeded", message, headers=headers)


def _create(parts: Dependencies, job_id: str, submission: Submission, key: str | None, origin: Origin) -> Created:
    settings = parts.settings
    idempotency = IdempotencyKey(key, submission.fingerprint, settings.idempotency_ttl_s) if key else None
    try:
        return parts.store.jobs.create(
            job_id,
            submission.spec,
            max_attempts=settings.max_attempts,
            idempotency=idempotency,
            origin=origin,
            arrived=True,
        )
    except ArrivalLostError:
        raise arrival_lost() from None
    except QuotaExceededError:
        raise _quota_exceeded(parts, origin) from None
    except IdempotencyConflictError:
        message = "This Idempotency-Key was used before with a different request."
        raise ServiceError("idempotency_conflict", message) from None
    except RecordNotStorableError as fault:
        raise not_storable() from fault
    except RedisError as cause:
        return _find_created(parts, job_id, cause)


def _find_created(parts: Dependencies, job_id: str, cause: RedisError) -> Created:
    """The connection broke during the creation: find out whether the job was created."""
    try:
        return Created(parts.store.jobs.get(job_id), True)
    except RecordUnreadableError:
        raise
    except JobNotFoundError:
        raise cause from None
    except RedisError:
        raise _OutcomeUnknownError(cause) from None


async def _remove_staged(parts: Dependencies, job_id: str) -> None:
    """Shielded from cancellation: this also runs after the client disconnected."""
    with anyio.CancelScope(shield=True):
        try:
            await parts.in_upload_thread(parts.objects.delete_prefix, job_prefix(job_id))
            await run_in_threadpool(parts.store.uploads.drop_arrival, job_id)
        except (ObjectStoreError, RedisError) as error:
            logger.warning(
                "Staged files of %s could not be removed; the janitor will do it: %s", job_id, type(error).__name__
            )


def _send(parts: Dependencies, job: Job) -> None:
    """Wake a worker; if inputs are still to be fetched, the fetcher does so later. The job is in the outbox already, so
    an unavailable broker delays it but loses nothing."""
    if job.awaits_inputs:
        return
    try:
        send_job(parts.celery, parts.store, job)
    except (MessageNotSentError, RedisError) as error:
        logger.warning("The message for %s stays in the outbox: %s", job.id, type(error).__name__)
