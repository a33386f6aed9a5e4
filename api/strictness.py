"""Refuses what the OpenAPI document does not name: a misspelled parameter that is ignored would change the answer
without notice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import anyio
from fastapi import FastAPI, Request

from api.paths import VERSION
from api.problems import FieldError, describe_errors
from jobs.errors import ServiceError

# Lists by RFC 9110 and RFC 7240: several lines are one list
_LIST_HEADERS = frozenset({"if-match", "if-none-match", "prefer"})


@dataclass(frozen=True)
class Accepted:
    """What an operation reads. query: parameter -> whether it may be repeated. headers: in lower case."""

    query: dict[str, bool]
    headers: frozenset[str]
    takes_body: bool


async def check_request(request: Request) -> None:
    """Raises invalid_request for parameters, headers and bodies that the operation does not take,
    unsupported_media_type for an encoded body, and precondition_failed for If-Match where there is no ETag."""
    template = getattr(request.scope.get("route"), "path", "")
    if request.app.openapi_schema is None:  # still being built: wait in a thread, not in the event loop
        await anyio.to_thread.run_sync(request.app.openapi)
    accepted = _accepted(request.app, template, request.method.lower())
    if accepted is None:  # not in the document: it refuses by itself
        return
    errors = [*_query_errors(request, accepted), *_header_errors(request, accepted)]
    if not accepted.takes_body and _has_body(request):
        errors.append(FieldError(location="body", pointer="", message="This call takes no body"))
    if errors:
        raise ServiceError("invalid_request", describe_errors(errors), errors=errors)
    encodings = {name.strip().lower() for name in request.headers.get("content-encoding", "").split(",")}
    if accepted.takes_body and (encoded := encodings - {"", "identity"}):
        message = f"The content encoding {min(encoded)[:40]!r} is not accepted; send the body as it is."
        raise ServiceError("unsupported_media_type", message, headers={"Accept-Encoding": "identity"})
    if "if-match" not in accepted.headers and request.headers.get("if-match", "").strip() not in ("", "*"):
        raise ServiceError("precondition_failed", "If-Match names an ETag, and this resource has none.")


@lru_cache(maxsize=256)
def _accepted(app: FastAPI, template: str, method: str) -> Accepted | None:
    document = app.openapi()
    path: dict[str, Any] = document["paths"].get(VERSION + template) or document["paths"].get(template) or {}
    if method not in path:
        return None
    operation = path[method]
    schemes = document["components"]["securitySchemes"]
    named = [parameter for parameter in operation["parameters"] if "name" in parameter]
    secrets = [schemes[name] for way in operation["security"] for name in way]
    query = {each["name"]: False for each in secrets if each.get("in") == "query"}
    query |= {each["name"]: each["schema"].get("type") == "array" for each in named if each["in"] == "query"}
    headers = frozenset(each["name"].lower() for each in named if each["in"] == "header")
    return Accepted(query, headers, "requestBody" in operation)


def _query_errors(request: Request, accepted: Accepted) -> list[FieldError]:
    errors = []
    for name in dict.fromkeys(request.query_params):
        if name not in accepted.query:
            known = ", ".join(sorted(accepted.query)) or "none"
            message = f"There is no such parameter; this call takes: {known}"
            errors.append(FieldError(location="query", pointer=name[:100], message=message))
        elif not accepted.query[name] and len(request.query_params.getlist(name)) > 1:
            errors.append(FieldError(location="query", pointer=name, message="It was sent more than once"))
    return errors


def _header_errors(request: Request, accepted: Accepted) -> list[FieldError]:
    return [
        FieldError(location="header", pointer=name, message="It was sent more than once")
        for name in sorted(accepted.headers - _LIST_HEADERS)
        if len(request.headers.getlist(name)) > 1
    ]


def _has_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"
