"""From an answer that went well to its typed form."""

from __future__ import annotations

from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from retalking_client.errors import UnexpectedAnswerError
from retalking_client.models import Job

Shape = TypeVar("Shape")


def parse_answer(shape: type[Shape], answer: httpx.Response) -> Shape:
    """Raises UnexpectedAnswerError: something else than the service answered 200, or a service of another kind."""
    try:
        return TypeAdapter(shape).validate_json(answer.content)
    except ValidationError as error:
        url = answer.request.url.copy_with(query=None)
        raise UnexpectedAnswerError(f"{url} did not answer as this service does.", answer.status_code) from error


def id_of(job: Job | str | Any) -> str:
    """Raises TypeError."""
    if isinstance(job, Job):
        return job.id
    if isinstance(job, str) and job:
        return job
    raise TypeError(f"a job is named by its id or by a Job, not by {job!r}")
