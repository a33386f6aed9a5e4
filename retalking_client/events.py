"""Following a job to its end: server-sent events (WHATWG HTML, 9.2), progress, and how long to wait;
and the verification of webhook signatures (Standard Webhooks).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError
from standardwebhooks.webhooks import EmptyWebhookSecretError

from retalking_client.errors import EventsLostError, WaitTimeoutError, WebhookInvalidError
from retalking_client.models import OVER, Job, JobEvent, WebhookEvent
from retalking_client.responses import describe

SILENCE_S = 45.0
"""The service sends a heartbeat every 15 s: longer silence means a dead connection or a buffering proxy."""
MAX_FAILURES = 3
PAUSE_S = 1.0
# Not str.splitlines, which also splits at characters that may occur in the data.
_LINE_END = re.compile(rb"\r\n|\n|\r(?=.)", re.DOTALL)


class EventParser:
    """Turns bytes into the data of complete events; a comment (heartbeat) gives None."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[str | None]:
        # A CR at the end may be the first half of CRLF: keep it for the next chunk.
        *lines, self._rest = _LINE_END.split(self._rest + chunk)
        for line in lines:
            if not line:
                if self._data:
                    yield "\n".join(self._data)
                self._data = []
                continue
            name, _, value = line.decode("utf-8", "replace").partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
            elif not name:
                yield None


class EventCursor:
    """State of one listener: last event, failures since then, and whether the job is over."""

    def __init__(self, job_id: str, after: str | None = None) -> None:
        self.job_id = job_id
        self.last_id = after
        self.is_over = False
        self._failures = 0

    def take(self, data: str | None) -> JobEvent | None:
        """The event of one data block; None for a heartbeat and for data that is not a job event."""
        if data is None:
            return None
        try:
            event = JobEvent.model_validate_json(data)
        except ValidationError:
            return None
        self.last_id, self._failures = event.id, 0
        self.is_over = event.status in OVER
        return event

    def stream_failed(self, error: Exception | None) -> float:
        """The stream ended before the job. Returns seconds to wait; raises EventsLostError after too many in a row."""
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            reason = f" ({describe(error)})" if error else ""
            raise EventsLostError(f"The event stream of {self.job_id} keeps ending early{reason}.") from error
        return PAUSE_S


POLL_FIRST_S = 1.0
POLL_LONGEST_S = 5.0
# Heartbeats come every 15 s; closer to the deadline than that, polling is more precise.
_NEAR_END_S = 20.0


@dataclass(frozen=True)
class Progress:
    """Progress of a job. stage: of a running job, `fetch` also of a queued one, else None. fraction: 0..1 of the whole
    job. queue_position and eta_s are only known while polling."""

    job_id: str
    status: str
    stage: str | None
    fraction: float
    queue_position: int | None = None
    eta_s: float | None = None


ProgressHook = Callable[[Progress], None]


class Watch:
    """State of one wait, shared by both clients. timeout_s: None means no limit."""

    def __init__(self, job_id: str, timeout_s: float | None, hook: ProgressHook | None) -> None:
        self._job_id, self._timeout_s, self._hook = job_id, timeout_s, hook
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._last: Progress | None = None
        self._pause_s = POLL_FIRST_S

    @property
    def left_s(self) -> float | None:
        return None if self._deadline_s is None else self._deadline_s - time.monotonic()

    @property
    def is_near_end(self) -> bool:
        """True if it is time to leave the stream and poll."""
        left_s = self.left_s
        return left_s is not None and left_s < _NEAR_END_S

    def report_event(self, event: JobEvent | None) -> None:
        if event is not None:
            self._report(Progress(self._job_id, event.status, event.stage, event.progress))

    def report_job(self, job: Job) -> None:
        self._report(Progress(job.id, job.status, job.stage, job.progress, job.queue_position, job.eta_s))

    def poll_pause_s(self) -> float:
        """Seconds until the next poll, growing. Raises WaitTimeoutError."""
        left_s = self.left_s
        if left_s is not None and left_s <= 0:
            raise WaitTimeoutError(
                f"{self._job_id} did not finish within {self._timeout_s:g} s; it continues.", self._job_id
            )
        pause_s, self._pause_s = self._pause_s, min(POLL_LONGEST_S, self._pause_s * 1.3)
        return pause_s if left_s is None else min(pause_s, left_s)

    def _report(self, progress: Progress) -> None:
        if self._hook is not None and progress != self._last:
            self._last = progress
            self._hook(progress)


def verify_webhook(body: bytes | str, headers: Mapping[str, str], secret: str | Sequence[str]) -> WebhookEvent:
    """The event. body: as it was received, before any JSON parser touched it. headers: names in any case. secret:
    `whsec_...`, as `Client.webhook_secret` gives it for your account, or RETALKING_WEBHOOK_SECRET of a service without
    keys; several while it is rotated: one that fits is enough.

    Raises WebhookInvalidError: wrong signature, changed body, or a timestamp more than five minutes off; ValueError for
    a secret that is none. The same event may arrive twice: remember the header `webhook-id`.
    """
    checkers = [_checker(each) for each in ([secret] if isinstance(secret, str) else secret)]
    if not checkers:
        raise ValueError("pass at least one webhook secret")
    try:
        text = body.decode() if isinstance(body, bytes) else body
        _verify(checkers, text, {name.lower(): value for name, value in headers.items()})
        return WebhookEvent.model_validate_json(text)
    except WebhookVerificationError as error:
        raise WebhookInvalidError(f"The webhook was not sent by the service: {error}.") from error
    except ValueError as error:  # headers that are no signature, bytes that are no text, a body that is no event
        raise WebhookInvalidError("The webhook is no signed event of this service.") from error


def _verify(checkers: Sequence[Webhook], text: str, headers: dict[str, str]) -> None:
    """Raises what the last of them raised when none accepts."""
    for checker in checkers[:-1]:
        try:
            checker.verify(text, headers)
        except (WebhookVerificationError, ValueError):
            continue
        return
    checkers[-1].verify(text, headers)


def _checker(secret: str) -> Webhook:
    try:
        return Webhook(secret)
    except (ValueError, EmptyWebhookSecretError) as error:
        raise ValueError("the webhook secret is `whsec_` and base64 text") from error
