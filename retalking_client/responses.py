"""From a response to its typed form, to the exception of its code or to a file, and whether the call is retried.

A download appears under its name only when it is complete and verified, and resumes after an interruption.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from retalking_client.calls import Call
from retalking_client.errors import (
    DownloadDamagedError,
    RetalkingClientError,
    ServiceUnreachableError,
    UnexpectedAnswerError,
)
from retalking_client.models import ApiError, FieldFault, Job, Page, Result

# Nothing was sent, so even a call that must not be repeated can be retried.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
# The service, or a proxy before it, did not accept the call.
_NOT_TAKEN = frozenset({429, 503})
_PASSING = _NOT_TAKEN | {408, 502, 504}


@dataclass(frozen=True)
class RetryPolicy:
    """How failed calls are retried.

    Pauses double from first_pause_s up to longest_pause_s, with jitter of up to a half. A `Retry-After` of the service
    takes precedence; beyond longest_wait_s the error is raised instead.

    retries: calls after the first one.
    """

    retries: int = 4
    first_pause_s: float = 0.5
    longest_pause_s: float = 20.0
    longest_wait_s: float = 120.0


class Attempts:
    """The attempts of one call: each failure gives the pause before the next attempt, or raises."""

    def __init__(self, policy: RetryPolicy, call: Call) -> None:
        self._policy, self._call = policy, call
        self._failures = 0
        self.is_in_doubt = False

    def after_error(self, error: httpx.TransportError) -> float:
        """Seconds. Raises ServiceUnreachableError."""
        self.is_in_doubt = self.is_in_doubt or not isinstance(error, _NEVER_SENT)
        unreachable = ServiceUnreachableError(f"{_origin(error)} does not respond ({describe(error)}).")
        if not self._call.is_repeatable and not isinstance(error, _NEVER_SENT):
            raise unreachable from error
        return self._next_pause_s(unreachable, None)

    def after_refusal(self, answer: httpx.Response) -> float:
        """Seconds. Raises the ApiError of the answer, or UnexpectedAnswerError. answer: read to its end."""
        failure = error_of_response(answer)
        if answer.status_code not in (_PASSING if self._call.is_repeatable else _NOT_TAKEN):
            raise failure
        return self._next_pause_s(failure, retry_after_s(answer))

    def is_settled(self, answer: httpx.Response) -> bool:
        """True if the call is done: it succeeded, or it deletes something that is gone and an earlier attempt without a
        response may have deleted it."""
        return answer.is_success or (self._call.deletes and answer.status_code == 404 and self.is_in_doubt)

    def reset(self) -> None:
        """Forget earlier failures, because data arrived."""
        self._failures = 0

    def _next_pause_s(self, failure: RetalkingClientError, requested_s: float | None) -> float:
        policy = self._policy
        if self._failures >= policy.retries or (requested_s or 0.0) > policy.longest_wait_s:
            raise failure
        grown_s = min(policy.longest_pause_s, policy.first_pause_s * 2**self._failures)
        self._failures += 1
        return requested_s if requested_s is not None else grown_s * random.uniform(0.5, 1.0)


def retry_after_s(answer: httpx.Response) -> float | None:
    """Retry-After in seconds from now, from either of its forms (RFC 9110, 10.2.3); None if absent or invalid."""
    text = answer.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def describe(error: Exception) -> str:
    """The error in a few words, even if the exception has no message."""
    return str(error) or type(error).__name__


def _origin(error: httpx.TransportError) -> str:
    try:
        url = error.request.url
    except RuntimeError:
        return "The service"
    return f"{url.scheme}://{url.netloc.decode()}"


Shape = TypeVar("Shape")
PageType = TypeVar("PageType", bound=Page)


def parse_response(shape: type[Shape], answer: httpx.Response) -> Shape:
    """Raises UnexpectedAnswerError if something other than this service responded."""
    try:
        return TypeAdapter(shape).validate_json(answer.content)
    except ValidationError as error:
        url = answer.request.url.copy_with(query=None)
        raise UnexpectedAnswerError(f"{url} did not respond like this service.", answer.status_code) from error


def error_of_response(answer: httpx.Response) -> ApiError | UnexpectedAnswerError:
    """answer: read to its end, with a status that is no success."""
    try:
        problem = answer.json()
        return _error_of_problem(problem, answer.status_code)
    except (ValueError, KeyError, TypeError, AttributeError):
        url = answer.request.url.copy_with(query=None)  # a presigned link keeps its signature in the query
        return UnexpectedAnswerError(f"{url} answered {answer.status_code}.", answer.status_code)


def _error_of_problem(problem: dict[str, Any], status: int) -> ApiError:
    code = str(problem["code"])
    kind = ApiError.class_of(code)
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


SUFFIXES = {"video/mp4": "mp4", "video/quicktime": "mov", "video/x-matroska": "mkv"}
BytesHook = Callable[[int, int], None]


class PartialFile:
    """A partial download in `.NAME.JOB.part` beside the target. A later run resumes it."""

    def __init__(self, job_id: str, result: Result, target: Path) -> None:
        self._result, self._target = result, target
        target.parent.mkdir(parents=True, exist_ok=True)
        self._path = target.with_name(f".{target.name}.{job_id}.part")
        if self.size > result.size_bytes:
            self._path.unlink()

    @property
    def size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    @property
    def is_complete(self) -> bool:
        return self._path.exists() and self.size == self._result.size_bytes

    def open_for(self, answer: httpx.Response) -> BinaryIO:
        """Open the file at the offset where the response begins: its end, or 0 if the server ignored the range."""
        start = _start_of(answer)
        file = self._path.open("r+b" if self._path.exists() else "w+b")
        file.seek(start)
        file.truncate()
        return file

    def finish(self) -> Path:
        """Check size and SHA-256, and give the file its name. Raises DownloadDamagedError; a wrong file is removed."""
        with self._path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if self.size != self._result.size_bytes or digest != self._result.sha256:
            self._path.unlink()
            raise DownloadDamagedError("The result arrived damaged: it is not the file that was published.")
        os.replace(self._path, self._target)
        return self._target


def target_of(job: Job, target: str | os.PathLike[str] | None) -> Path:
    """Where the result goes: the path given; a name of its own inside it, where it is a folder or ends as one (`out/`);
    `JOB.mp4` here, where none is given."""
    suffix = SUFFIXES.get(job.result.content_type if job.result else "", "mp4")
    name = f"{job.id}.{suffix}"
    if target is None:
        return Path(name)
    path = Path(target).expanduser()
    is_folder = path.is_dir() or os.fspath(target).endswith(("/", os.sep))
    return path / name if is_folder else path


def _start_of(answer: httpx.Response) -> int:
    """`Content-Range: bytes 100-199/200` -> 100. A whole answer starts at 0."""
    if answer.status_code != 206:
        return 0
    try:
        return int(answer.headers["Content-Range"].removeprefix("bytes ").partition("-")[0])
    except (KeyError, ValueError) as error:
        raise DownloadDamagedError("The answer does not say which part of the file it is.") from error
