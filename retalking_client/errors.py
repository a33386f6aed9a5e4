"""Everything that can go wrong, by name.

RetalkingClientError             code, message, advice
├─ ServiceUnreachableError       no answer; the call may be made again
├─ UnexpectedAnswerError         an answer that is not the service's (a proxy in between, another program)
├─ EventsLostError               the event stream keeps breaking off; poll instead
├─ WaitTimeoutError              the job is not over in the time given; it goes on
├─ DownloadDamagedError          the result did not arrive as it was published
├─ WebhookInvalidError           not signed with this secret, too old, or changed on the way
└─ ApiError                      what the service said: one subclass a public code, in `retalking_client.codes`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retalking_client.models import Job


class RetalkingClientError(Exception):
    """code: stable name. message: what happened. advice: what to do now."""

    code: str = "client_error"
    advice: str = ""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ServiceUnreachableError(RetalkingClientError):
    code = "service_unreachable"
    advice = "Check the address (RETALKING_URL) and that the service is running."


class UnexpectedAnswerError(RetalkingClientError):
    """status: HTTP status of the answer."""

    code = "unexpected_answer"
    advice = "Check that the address is that of the service itself, and what stands between you and it."

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class EventsLostError(RetalkingClientError):
    code = "events_lost"
    advice = "Ask for the job's state with `get`, or use `wait`, which polls where streams are cut."


class WaitTimeoutError(RetalkingClientError):
    """job_id: the job that goes on."""

    code = "wait_timeout"
    advice = "Wait again with the same id, or cancel the job."

    def __init__(self, message: str, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class DownloadDamagedError(RetalkingClientError):
    code = "download_damaged"
    advice = "Download it again."


class WebhookInvalidError(RetalkingClientError):
    code = "webhook_invalid"
    advice = "Answer 401 and do nothing with the body; check that the secret is the service's."


@dataclass(frozen=True)
class FieldFault:
    """One thing to correct. pointer: JSON Pointer into the body, or the name of a parameter, header or part."""

    location: str
    pointer: str
    message: str


class ApiError(RetalkingClientError):
    """A refusal, or the reason why a job failed.

    status: HTTP status of the refusal; None for a failed job. retryable: the same call may succeed later.
    request_id: quote it in a report. faults: every field to correct. job: the failed job.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        advice: str | None = None,
        status: int | None = None,
        retryable: bool = False,
        request_id: str | None = None,
        faults: Sequence[FieldFault] = (),
        job: Job | None = None,
    ) -> None:
        super().__init__(message)
        # On the instance only where the service knows better than this version of the client.
        self.code = code or type(self).code
        self.advice = advice or type(self).advice
        self.status = status
        self.retryable = retryable
        self.request_id = request_id
        self.faults = tuple(faults)
        self.job = job
