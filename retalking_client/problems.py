"""From what the service said to the exception of its code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

from retalking_client.codes import ERROR_CLASSES
from retalking_client.errors import ApiError, FieldFault, UnexpectedAnswerError

if TYPE_CHECKING:
    from retalking_client.models import Job


def error_of_answer(answer: httpx.Response) -> ApiError | UnexpectedAnswerError:
    """answer: read to its end, with a status that is no success."""
    try:
        problem = answer.json()
        return _error_of_problem(problem, answer.status_code)
    except (ValueError, KeyError, TypeError, AttributeError):
        asked = answer.request.url.copy_with(query=None)  # a presigned link keeps its signature in the query
        return UnexpectedAnswerError(f"{asked} answered {answer.status_code}.", answer.status_code)


def error_of_job(job: Job) -> ApiError:
    """job: failed or canceled."""
    code = job.error.code if job.error else str(job.status)
    message = job.error.message if job.error else f"The job is {job.status}."
    kind = ERROR_CLASSES.get(code, ApiError)
    return kind(f"{message} (job {job.id})", code=code, retryable=bool(job.error and job.error.retryable), job=job)


def _error_of_problem(problem: dict[str, Any], status: int) -> ApiError:
    code = str(problem["code"])
    kind = ERROR_CLASSES.get(code, ApiError)
    return kind(
        str(problem.get("detail") or problem["title"]),
        code=code,
        advice=problem.get("advice"),
        status=status,
        retryable=bool(problem.get("retryable", False)),
        request_id=problem.get("request_id"),
        faults=[
            FieldFault(str(fault.get("location", "body")), str(fault["pointer"]), str(fault["message"]))
            for fault in problem.get("errors") or ()
        ],
    )
