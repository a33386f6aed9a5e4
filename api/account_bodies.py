"""Bodies of requests about accounts and keys."""

from __future__ import annotations

from typing import Annotated, Self, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from api.dependencies import Dependencies
from api.limits import read_body, read_json
from api.problems import describe_errors, field_errors
from jobs.errors import ServiceError
from jobs.models import FrozenModel
from jobs.names import MAX_PRIORITY, USUAL_PRIORITY
from jobs.store.keys import Scope

MAX_BODY_BYTES = 64 * 1024
Body = TypeVar("Body", bound=BaseModel)
# Without control characters, which terminals obey, and lone surrogates, which cannot be stored
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
# JSON has one kind of number: 296.0 is the integer 296
INTEGRAL = BeforeValidator(lambda n: int(n) if isinstance(n, float) and n.is_integer() else n)
RequestsPerMinute = Annotated[int, Field(ge=1, le=60_000), INTEGRAL]
LiveJobs = Annotated[int, Field(ge=1, le=1_000_000), INTEGRAL]
StoredBytes = Annotated[int, Field(ge=1024, le=2**53), INTEGRAL]
Priority = Annotated[int, Field(ge=0, le=MAX_PRIORITY), INTEGRAL]
LIMITS = ("requests_per_minute", "live_jobs", "stored_bytes")


def _without_repetition(scopes: list[Scope]) -> list[Scope]:
    """As the schema says: a set would drop repeated entries in silence."""
    if len(set(scopes)) < len(scopes):
        raise ValueError("a scope is named twice")
    return scopes


class NewKey(FrozenModel):
    """A key to create."""

    name: Name = Field(description="For people: who uses it")
    scopes: Annotated[list[Scope], AfterValidator(_without_repetition)] = Field(
        [Scope.SUBMIT, Scope.READ],
        min_length=1,
        max_length=3,
        description="What it allows",
        json_schema_extra={"uniqueItems": True},
    )
    max_priority: Priority = Field(USUAL_PRIORITY, description="The most urgent priority that its jobs may have")
    account: str | None = Field(
        None, max_length=64, description="Id of the account that the key is for; null: a new account of the same name"
    )
    requests_per_minute: RequestsPerMinute | None = Field(None, description="Limit of a new account")
    live_jobs: LiveJobs | None = Field(None, description="Limit of a new account")
    stored_bytes: StoredBytes | None = Field(None, description="Limit of a new account")

    @model_validator(mode="after")
    def _limits_of_new_accounts(self) -> Self:
        given = [name for name in LIMITS if getattr(self, name) is not None]
        if self.account is not None and given:
            raise ValueError(f"{given[0]} is a limit of the account: change it with PATCH /accounts/{{account}}")
        return self


class AccountChanges(FrozenModel):
    """What to change of an account. What is left out stays; a limit of null becomes that of the deployment."""

    name: Name | None = Field(None, description="For people: who it is; null changes nothing")
    requests_per_minute: RequestsPerMinute | None = Field(None, description="Of all its keys together")
    live_jobs: LiveJobs | None = Field(None, description="Unfinished jobs")
    stored_bytes: StoredBytes | None = Field(None, description="Bytes of uploads, inputs and results")

    @property
    def given(self) -> dict[str, str | int | None]:
        return {name: getattr(self, name) for name in self.model_fields_set if name in LIMITS or self.name is not None}


async def receive(model: type[Body], request: Request, parts: Dependencies) -> Body:
    """The JSON body. Raises unsupported_media_type, body_too_large, request_timeout, malformed_json,
    value_out_of_bounds, invalid_request."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ServiceError("unsupported_media_type", "This call takes a body of the content type application/json.")
    raw = await read_body(request, MAX_BODY_BYTES, parts.pace)
    await run_in_threadpool(read_json, raw, "The body")
    try:
        return model.model_validate_json(raw, strict=True)
    except ValidationError as failure:
        errors = field_errors(failure.errors(include_url=False, include_input=False, include_context=False))
        raise ServiceError("invalid_request", describe_errors(errors), errors=errors) from None
