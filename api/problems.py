"""Error responses: RFC 9457 problem documents with a code of the public table."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

from api.paths import VERSION
from jobs.errors import ERROR_CODES, ServiceError
from jobs.objects import ObjectStoreError, ObjectStoreFullError
from jobs.store import JobNotFoundError, RecordUnreadableError

logger = logging.getLogger("retalking.api")

PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER_S = 5
# Pydantic's types of error for a name that a model, or a dataclass, does not have.
UNKNOWN_FIELD = ("extra_forbidden", "unexpected_keyword_argument")


class FieldError(BaseModel):
    """One thing to correct. pointer: JSON Pointer into the body, or the name of the parameter, header or part."""

    location: Literal["body", "query", "header", "path", "service"] = "body"
    pointer: str
    message: str


class Problem(BaseModel):
    """RFC 9457 problem document. `code` is stable, `detail` is for people."""

    type: str = Field(description="URI reference of the kind of problem, `/errors#<code>`")
    title: str
    status: int
    detail: str = Field(description="What happened, in one sentence")
    code: str = Field(description="Stable code, see `GET /errors`", json_schema_extra={"enum": [*sorted(ERROR_CODES)]})
    instance: str = Field(description="Requested path")
    request_id: str = Field(description="Same as the header X-Request-Id; quote it in bug reports")
    retryable: bool = Field(description="The same call may succeed later")
    advice: str = Field(description="What the caller can do")
    errors: list[FieldError] | SkipJsonSchema[None] = Field(
        None, description="Every field to correct; absent if there is none"
    )


def describe_problem(
    code: str, detail: str, *, instance: str, request_id: str, errors: Sequence[FieldError] = ()
) -> dict[str, Any]:
    """The body of a problem response."""
    row = ERROR_CODES[code]
    problem = Problem(
        type=f"/errors#{code}",
        title=row.title,
        status=row.status,
        detail=detail,
        code=code,
        instance=instance,
        request_id=request_id,
        retryable=row.retryable,
        advice=row.advice,
        errors=list(errors) or None,
    )
    return problem.model_dump(exclude_none=True)


def problem_response(
    request: Request,
    code: str,
    detail: str,
    *,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    body = describe_problem(code, detail, instance=request.url.path, request_id=request_id_of(request), errors=errors)
    all_headers = dict(headers or {})
    if body["status"] == 503:
        all_headers.setdefault("Retry-After", str(RETRY_AFTER_S))
    return JSONResponse(body, status_code=body["status"], headers=all_headers, media_type=PROBLEM_TYPE)


def request_id_of(request: Request) -> str:
    return getattr(request.state, "request_id", "")


def refusals(*codes: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for these codes: one entry per status, one example per code.

    `internal_error` and `invalid_request` are always included, because any route can receive a wrong header or
    parameter. Routes that use a store do so in a thread, so `service_unavailable` implies `threads_exhausted`.
    """
    responses: dict[int | str, dict[str, Any]] = {}
    threads = {"threads_exhausted"} if "service_unavailable" in codes else set()
    for code in sorted({*codes, *threads, "internal_error", "invalid_request"}):
        row = ERROR_CODES[code]
        example = describe_problem(code, row.title + ".", instance="/jobs", request_id="req_7f3b9c")
        entry = responses.setdefault(
            row.status,
            {
                "description": "",
                "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
            },
        )
        entry["description"] = "; ".join(filter(None, [entry["description"], f"{row.title} (`{code}`)"]))
        entry["content"][PROBLEM_TYPE]["examples"][code] = {"summary": row.title, "value": example}
        if row.status == 503:
            entry["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}}
    return responses


def pointer_of(location: Sequence[int | str]) -> str:
    """JSON Pointer of a pydantic error location, without the names that pydantic gives to the members of a union."""
    steps = [str(step) for step in location if isinstance(step, int) or re.fullmatch(r"[a-z][a-z0-9_]*", step)]
    return "#/" + "/".join(steps or [str(step) for step in location])


def field_errors(errors: Sequence[Mapping[str, Any]], location: str = "body") -> list[FieldError]:
    """One FieldError per field, without the input; pydantic reports one error per member of a union."""
    messages: dict[str, list[str]] = {}
    for error in errors:
        is_unknown_field = error["type"] in UNKNOWN_FIELD
        pointer = "#/" + "/".join(map(str, error["loc"])) if is_unknown_field else pointer_of(error["loc"])
        message = "There is no such field" if is_unknown_field else error["msg"]
        if message not in messages.setdefault(pointer, []):
            messages[pointer].append(message)
    return [
        FieldError(location=location, pointer=pointer, message="; or ".join(found))
        for pointer, found in messages.items()
    ]


def describe_errors(errors: Sequence[FieldError]) -> str:
    """The first error as a sentence, and the number of the others."""
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{first.pointer.removeprefix('#/').replace('/', '.') or 'body'}: {first.message}{more}."


async def _on_service_error(request: Request, error: ServiceError) -> JSONResponse:
    return problem_response(
        request,
        error.code,
        error.message,
        errors=cast(Sequence[FieldError], error.details.get("errors", ())),
        headers=cast(Mapping[str, str] | None, error.details.get("headers")),
    )


async def _on_validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
    errors = []
    for entry in error.errors():
        location, *steps = entry["loc"]
        # A parameter is called by its name, also where one of several values is wrong.
        pointer = steps[-1] if location == "body" else steps[0]
        errors.append(FieldError(location=location, pointer=str(pointer), message=entry["msg"]))
    return problem_response(request, "invalid_request", describe_errors(errors), errors=errors)


async def _on_http_error(request: Request, error: HTTPException) -> JSONResponse:
    if error.status_code == 405:
        allow = allowed_methods(request, (error.headers or {}).get("Allow", ""))
        detail = f"{request.url.path} does not support {request.method}; it supports {allow}."
        return problem_response(request, "method_not_allowed", detail, headers={"Allow": allow})
    if error.status_code == 404:
        return problem_response(request, "not_found", "There is nothing at this path.")
    code = "invalid_request" if error.status_code < 500 else "internal_error"
    return problem_response(request, code, ERROR_CODES[code].title + ".", headers=error.headers)


def allowed_methods(request: Request, of_route: str) -> str:
    """Every method of the matched path. of_route: those of the first route with that path, which is all that Starlette
    reports."""
    template = getattr(request.scope.get("route"), "path", "")
    paths = request.app.openapi()["paths"]
    documented = paths.get(VERSION + template) or paths.get(template)
    methods = {method.upper() for method in documented} if documented else set(of_route.split(", "))
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


async def _on_unknown_job(request: Request, _: JobNotFoundError) -> JSONResponse:
    return problem_response(request, "job_not_found", "There is no job with this id.")


async def _on_unreadable_record(request: Request, _: RecordUnreadableError) -> JSONResponse:
    return problem_response(request, "record_unreadable", "The record of this job cannot be read.")


async def _on_part_down(request: Request, error: Exception) -> JSONResponse:
    part = "The job store" if isinstance(error, RedisError) else "The object store"
    logger.warning("%s failed on request %s: %s", part, request_id_of(request), type(error).__name__)
    return problem_response(request, "service_unavailable", f"{part} cannot be reached.")


async def _on_storage_full(request: Request, _: ObjectStoreFullError) -> JSONResponse:
    logger.warning("The object store is full on request %s", request_id_of(request))
    return problem_response(request, "storage_full", "The object store has no space left.")


def install_problems(app: FastAPI) -> None:
    """Register the handlers that turn exceptions into problem documents; `api.middleware` handles all others."""
    app.exception_handler(ServiceError)(_on_service_error)
    app.exception_handler(RequestValidationError)(_on_validation_error)
    app.exception_handler(HTTPException)(_on_http_error)
    app.exception_handler(JobNotFoundError)(_on_unknown_job)
    app.exception_handler(RecordUnreadableError)(_on_unreadable_record)
    app.exception_handler(RedisError)(_on_part_down)
    app.exception_handler(ObjectStoreError)(_on_part_down)
    app.exception_handler(ObjectStoreFullError)(_on_storage_full)
