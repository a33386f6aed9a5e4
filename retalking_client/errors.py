"""Errors of the client itself, and the tree of all errors.

RetalkingClientError             code, message, advice
├─ ServiceUnreachableError       no answer; the call may be made again
├─ UnexpectedAnswerError         an answer that is not the service's (a proxy in between, another program)
├─ EventsLostError               the event stream keeps breaking off; poll instead
├─ WaitTimeoutError              the job is not over in the time given; it goes on
├─ DownloadDamagedError          the result did not arrive as it was published
├─ WebhookInvalidError           not signed with this secret, too old, or changed on the way
└─ ApiError                      the service refused, or the job failed (`retalking_client.models`);
                                 one subclass per public code, in `retalking_client.codes`
"""

from __future__ import annotations


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
