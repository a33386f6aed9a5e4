"""Errors of the client itself, and the tree of all errors.

RetalkingClientError             code, message, advice
├─ ServiceUnreachableError       no response; the call may be repeated
├─ UnexpectedAnswerError         a response that is not the service's (a proxy, another program)
├─ EventsLostError               the event stream keeps breaking; poll instead
├─ WaitTimeoutError              the job did not finish in time; it continues
├─ DownloadDamagedError          the downloaded result differs from the published one
├─ WebhookInvalidError           wrong signature, too old, or altered
└─ ApiError                      the service refused, or the job failed (`retalking_client.models`);
                                 one subclass per public code, in `retalking_client.codes`
"""

from __future__ import annotations


class RetalkingClientError(Exception):
    """Base of all errors. code: stable name. message: what happened. advice: what to do."""

    code: str = "client_error"
    advice: str = ""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ServiceUnreachableError(RetalkingClientError):
    code = "service_unreachable"
    advice = "Check the address (RETALKING_URL) and that the service is running."


class UnexpectedAnswerError(RetalkingClientError):
    """status: HTTP status of the response."""

    code = "unexpected_answer"
    advice = "Check that the address is that of the service itself, and which proxies are in between."

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class EventsLostError(RetalkingClientError):
    code = "events_lost"
    advice = "Read the job's state with `get`, or use `wait`, which polls if streams are cut."


class WaitTimeoutError(RetalkingClientError):
    """job_id: id of the job or batch, which continues."""

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
    advice = "Respond with 401 and ignore the body; check that the secret is the current one."
