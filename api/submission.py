"""A submission: from a form or a JSON body to a `JobSpec` that is checked as far as the API can see."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import Field, StringConstraints, ValidationError

from api.access import Caller
from api.bodies import read_body, too_large
from api.bounds import check_metadata, read_json
from api.claims import Claim, announced_bytes
from api.engines import check_engine
from api.forms import SLOTS, ReceivedForm, fields_to_body, receive_form
from api.parts import Parts
from api.problems import UNKNOWN_FIELD, FieldError, field_errors, say
from api.staging import check_container
from jobs.egress import UrlNotAllowedError, check_url_async
from jobs.errors import ServiceError
from jobs.models import InputRef, JobRequest, JobSpec, WorkerInfo
from jobs.names import input_key, upload_key
from jobs.objects import ObjectNotFoundError
from retalking_core.vocabulary.containers import HEAD_BYTES, InputSlot

# An upload that a submission copies does not expire meanwhile; a store copies 2 GB in seconds.
KEEP_UPLOAD_S = 300.0

UploadId = Annotated[str, StringConstraints(pattern=r"^up_[0-9a-f]{32}$")]
Address = Annotated[str, StringConstraints(min_length=1, max_length=2048)]


class JobSubmission(JobRequest):
    """A job by reference: where its inputs are, and everything else that can be asked."""

    video_url: Address | None = Field(None, description="http(s) address of the video or still image")
    video_upload_id: UploadId | None = Field(None, description="Id from `POST /uploads`")
    audio_url: Address | None = Field(None, description="http(s) address of the speech")
    audio_upload_id: UploadId | None = Field(None, description="Id from `POST /uploads`")

    def request(self) -> JobRequest:
        return JobRequest.model_construct(**{name: getattr(self, name) for name in JobRequest.model_fields})


@dataclass(frozen=True)
class Submission:
    """fingerprint: hash of everything that was asked, contents of the files included."""

    spec: JobSpec
    fingerprint: str


async def read_submission(request: Request, parts: Parts, caller: Caller, claim: Claim) -> Submission:
    """Receive and check. Inputs that came with the request or from an upload lie under the job's prefix afterwards,
    also when this raises: the caller removes them then."""
    # First, so that with the store down nobody sends 2 GB to learn it.
    workers = await run_in_threadpool(parts.store.workers)
    body, form = await _receive(request, parts, claim)
    _check_sources(body, form)
    if "expression" in form.files:
        body = body.model_copy(update={"expression": "image"})
    asked = body.request()
    check_metadata(asked.metadata)
    _check_priority(asked, caller)
    _check_metrics(asked, workers)
    check_engine(asked, workers, parts.settings)
    for name in ("webhook_url", "video_url", "audio_url"):
        await _check_address(name, getattr(body, name), parts, caller)
    spec = await run_in_threadpool(_resolve, body, form, parts, caller, claim)
    await run_in_threadpool(claim.settle)
    return Submission(spec, _fingerprint(body, form))


async def _receive(request: Request, parts: Parts, claim: Claim) -> tuple[JobSubmission, ReceivedForm]:
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        await run_in_threadpool(claim.announce, announced_bytes(request))
        form = await receive_form(request, parts, claim)
        return _body_of_form(form), form
    if kind == "application/json":
        raw = await read_body(request, parts.settings.max_json_bytes, parts.pace)
        return _body_of_json(raw, "The body"), ReceivedForm()
    asked = f"The content type {kind[:100]!r} is" if kind else "A body without a content type is"
    raise ServiceError("unsupported_media_type", f"{asked} not accepted here.")


def _body_of_form(form: ReceivedForm) -> JobSubmission:
    fields = dict(form.fields)
    spec = fields.pop("spec", None)
    if spec is None:
        return _validate(fields_to_body(fields))
    if fields or len(spec) != 1:
        raise ServiceError("invalid_request", "Send the options once: as fields, or in one `spec` part.")
    return _body_of_json(spec[0].encode(), "The part `spec`")


def _body_of_json(raw: bytes, what: str) -> JobSubmission:
    value = read_json(raw, what)
    if not isinstance(value, dict):
        raise ServiceError("invalid_request", f"{what} is not a JSON object.")
    return _validate(raw)


def _validate(body: bytes | dict[str, Any]) -> JobSubmission:
    """JSON is taken at its word (`"18"` is no number there); form fields are text and are converted."""
    try:
        if isinstance(body, bytes):
            return JobSubmission.model_validate_json(body, strict=True)
        return JobSubmission.model_validate(body)
    except ValidationError as failure:
        found = failure.errors(include_url=False, include_input=False, include_context=False)
    if any(error["type"] == "json_invalid" for error in found):
        raise ServiceError("malformed_json", "The body is not JSON.")
    errors = field_errors(found)
    raise ServiceError(_code_of(found), say(errors), errors=errors)


def _code_of(errors: list[Any]) -> str:
    """invalid_option where an option that exists has a bad value; invalid_request for unknown fields and the rest."""
    is_option = [
        error["type"] not in UNKNOWN_FIELD and error["loc"][:1] and error["loc"][0] in JobRequest.model_fields
        for error in errors
    ]
    return "invalid_option" if any(is_option) else "invalid_request"


def _check_priority(asked: JobRequest, caller: Caller) -> None:
    if asked.priority > caller.max_priority:
        message = f"priority: This key may ask for {caller.max_priority} at most, not for {asked.priority}."
        errors = [FieldError(pointer="#/priority", message=f"At most {caller.max_priority} with this key")]
        raise ServiceError("priority_not_allowed", message, errors=errors)


def _check_metrics(asked: JobRequest, workers: Sequence[WorkerInfo]) -> None:
    """Raises invalid_option for a metric that no live worker knows. Without a live worker nothing is known."""
    known = {name for worker in workers for name in worker.metrics}
    unknown = [name for name in asked.evaluate or () if name not in known]
    if workers and unknown:
        message = f"No live worker computes {', '.join(unknown)}; they compute {', '.join(sorted(known)) or 'nothing'}"
        raise ServiceError(
            "invalid_option", f"evaluate: {message}.", errors=[FieldError(pointer="#/evaluate", message=message)]
        )


def _sources(slot: InputSlot, body: JobSubmission, form: ReceivedForm) -> list[str]:
    """The ways in which this input was given."""
    ways: Mapping[str, object] = {
        f"the file part `{slot}`": form.files.get(slot),
        f"`{slot}_url`": getattr(body, f"{slot}_url", None),
        f"`{slot}_upload_id`": getattr(body, f"{slot}_upload_id", None),
    }
    return [way for way, value in ways.items() if value is not None]


def _check_sources(body: JobSubmission, form: ReceivedForm) -> None:
    errors = []
    for slot in ("video", "audio"):
        given = _sources(slot, body, form)
        ways = f"the file part `{slot}`, `{slot}_url` or `{slot}_upload_id`"
        if not given:
            errors.append(FieldError(pointer=f"#/{slot}", message=f"It is missing; send one of {ways}"))
        elif len(given) > 1:
            errors.append(FieldError(pointer=f"#/{slot}", message=f"It was sent as {' and as '.join(given)}; send one"))
    if "expression" in form.files and body.expression not in ("neutral", "image"):
        errors.append(FieldError(pointer="#/expression", message="It was sent as a value and as a file; send one"))
    if "expression" not in form.files and body.expression == "image":
        message = "The picture is missing; send it as the file part `expression`, or name an upload"
        errors.append(FieldError(pointer="#/expression", message=message))
    if errors:
        raise ServiceError("invalid_request", say(errors), errors=errors)


def _resolve(body: JobSubmission, form: ReceivedForm, parts: Parts, caller: Caller, claim: Claim) -> JobSpec:
    """Take copies of uploads. The upload itself stays: it can serve many jobs until it expires."""

    def refer(slot: InputSlot, url: str | None, upload_id: str | None) -> InputRef:
        staged = form.files.get(slot)
        if staged is not None:
            return InputRef(
                kind="object",
                key=staged.key,
                size_bytes=staged.size_bytes,
                sha256=staged.sha256,
                filename=form.filenames[slot] or None,
            )
        if url is not None:
            return InputRef(kind="url", url=url)
        return _copy_upload(parts, caller, slot, str(upload_id), claim)

    image: InputRef | None = None
    if "expression" in form.files or body.expression.startswith("upload:"):
        image = refer("expression", None, body.expression.removeprefix("upload:"))
    return JobSpec(
        video=refer("video", body.video_url, body.video_upload_id),
        audio=refer("audio", body.audio_url, body.audio_upload_id),
        expression_image=image,
        request=body.request(),
    )


async def _check_address(name: str, address: str | None, parts: Parts, caller: Caller) -> None:
    """Raises url_not_allowed and host_unresolved, naming the field. A None is no address."""
    if address is None:
        return
    try:
        await check_url_async(address, parts.settings.allow_private_hosts, caller.owner)
    except UrlNotAllowedError as refusal:
        errors = [FieldError(pointer=f"#/{name}", message=refusal.message)]
        raise ServiceError(refusal.code, f"{name}: {refusal.message}", errors=errors) from None


def _copy_upload(parts: Parts, caller: Caller, slot: InputSlot, upload_id: str, claim: Claim) -> InputRef:
    source, key = upload_key(upload_id), input_key(claim.arrival, slot)
    try:
        if parts.store.keep_upload(upload_id, KEEP_UPLOAD_S, caller.only) is None:
            raise ObjectNotFoundError(source)
        size = parts.objects.info(source).size_bytes
        if size > parts.settings.max_upload_bytes:  # A presigned PUT can not be limited in S3.
            raise too_large(parts.settings.max_upload_bytes, f"upload {upload_id}")
        if size == 0:
            raise ServiceError("file_empty", f"The upload {upload_id} is empty.")
        check_container(b"".join(parts.objects.read(source, 0, min(size, HEAD_BYTES))), slot)
        claim.add(size)
        parts.objects.copy(source, key)
    except ObjectNotFoundError:
        message = f"There is no upload {upload_id} for the {slot}, or nothing was put to its link yet."
        raise ServiceError("upload_not_found", message) from None
    return InputRef(kind="object", key=key, size_bytes=size)


def _fingerprint(body: JobSubmission, form: ReceivedForm) -> str:
    asked = {
        "body": body.model_dump(mode="json"),
        "files": {slot: form.files[slot].sha256 for slot in SLOTS if slot in form.files},
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
