"""Delivering one webhook event: sign, post, and write down how it went. The schedule of retries lives in the job store.

Signed as Standard Webhooks (https://www.standardwebhooks.com): `webhook-id` is the delivery's id and stays the same
over its attempts, `webhook-timestamp` is the moment of the attempt.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from standardwebhooks import Webhook

from jobs.errors import ServiceError
from jobs.journal import about
from jobs.models import Delivery, DeliveryAttempt, Job, JobView
from jobs.settings import Settings
from jobs.store import JobNotFoundError, JobStore
from jobs.traces import span
from worker.egress import Egress, UnreachableError

log = logging.getLogger(__name__)

# Read so that the receiver can finish speaking; never kept.
MAX_ANSWER_BYTES = 4096
# A delivery whose courier died is due again after this and the receiver's own time.
HOLD_MARGIN_S = 30.0
GONE = 410
OVERLOADED = (429, 503)


@dataclass(frozen=True)
class Answer:
    """retry_after_s: what the receiver asked for."""

    status: int
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What becomes of a delivery: `delivered`, `given_up`, or `pending` with a pause."""

    state: str
    retry_in_s: float | None = None


class Courier:
    """Carries deliveries out. view: makes the public shape of a job."""

    def __init__(self, store: JobStore, settings: Settings, signer: Webhook, view: Callable[[Job], JobView]) -> None:
        self._store = store
        self._settings = settings
        self._signer = signer
        self._view = view
        timeout_s = settings.webhook_timeout_s
        self._egress = Egress(tuple(settings.allow_private_hosts), idle_s=timeout_s, total_s=timeout_s)

    def deliver(self, delivery_id: str) -> Delivery | None:
        """One attempt. None: nothing to do (delivered, not due, in other hands, or its job is gone)."""
        hold_s = self._settings.webhook_timeout_s + HOLD_MARGIN_S
        delivery = self._store.claim_delivery(delivery_id, hold_s)
        if delivery is None:
            return None
        try:
            job = self._store.get(delivery.job_id)
        except JobNotFoundError:
            return None
        body = event_body(delivery, self._view(job))
        named = {"job": job.id, "delivery": delivery.id, "event": delivery.event}
        with about(request=job.request_id), span("deliver webhook", kind="client", parent=job.traceparent, **named):
            attempt, verdict = self._attempt(delivery, str(job.spec.request.webhook_url), body)
            log.info("webhook %s", verdict.state, extra=named | {"status": attempt.status_code})
        return self._store.record_attempt(delivery.id, attempt, state=verdict.state, retry_in_s=verdict.retry_in_s)

    def _attempt(self, delivery: Delivery, url: str, body: str) -> tuple[DeliveryAttempt, Verdict]:
        number = len(delivery.attempts) + 1
        at, began = datetime.now(UTC), time.monotonic()
        status, error = None, None
        try:
            answer = self._post(url, body, signed_headers(self._signer, delivery.id, at, body))
        except UnreachableError as fault:
            error = f"The address could not be reached: {fault}."
            verdict = self._again(number, None)
        except ServiceError as refusal:  # an address that is not allowed: it was public when the job came in
            error = refusal.message
            verdict = Verdict("given_up")
        else:
            status = answer.status
            error = None if 200 <= status < 300 else describe_status(status)
            verdict = self._judge(answer, number)
        duration_ms = round((time.monotonic() - began) * 1000)
        return DeliveryAttempt(at=at, status_code=status, error=error, duration_ms=duration_ms), verdict

    def _post(self, url: str, body: str, headers: Mapping[str, str]) -> Answer:
        """The status decides; a body that drips or breaks off after it changes nothing."""
        received: Answer | None = None
        try:
            with self._egress.exchange("POST", url, headers, body.encode()) as answer:
                fields = {key.lower(): value.decode("latin-1") for key, value in answer.headers}
                received = Answer(answer.status, retry_after_s(fields.get(b"retry-after")))
                size = 0
                for chunk in answer.iter_stream():
                    size += len(chunk)
                    if size >= MAX_ANSWER_BYTES:
                        break
        except UnreachableError:
            if received is None:
                raise
        return received

    def _judge(self, answer: Answer, number: int) -> Verdict:
        if 200 <= answer.status < 300:
            return Verdict("delivered")
        if answer.status == GONE:
            return Verdict("given_up")
        return self._again(number, answer.retry_after_s if answer.status in OVERLOADED else None)

    def _again(self, number: int, asked_s: float | None) -> Verdict:
        """Capped exponential backoff with full jitter, so that a receiver that comes back is not met by all at once."""
        settings = self._settings
        if number >= settings.webhook_max_attempts:
            return Verdict("given_up")
        cap_s = settings.webhook_backoff_cap_s
        pause_s = random.uniform(0, min(cap_s, settings.webhook_backoff_s * 2 ** (number - 1)))
        return Verdict("pending", min(cap_s, max(pause_s, asked_s or 0.0)))


def event_body(delivery: Delivery, view: JobView) -> str:
    """`timestamp` is when the event happened; `data` is the job as it is now."""
    data = view.model_dump(mode="json")
    happened = delivery.created_at.astimezone(UTC).isoformat()
    return json.dumps({"type": delivery.event, "timestamp": happened, "data": data}, separators=(",", ":"))


def signed_headers(signer: Webhook, delivery_id: str, at: datetime, body: str) -> dict[str, str]:
    """at: in UTC; the library takes the clock reading and overwrites whatever zone it had."""
    return {
        "Content-Type": "application/json",
        "webhook-id": delivery_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signer.sign(delivery_id, at, body),
    }


def describe_status(status: int) -> str:
    if 300 <= status < 400:
        return f"The address answered with the redirect {status}; redirects are not followed."
    return f"The address answered with status {status}."


def retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header, in either of its forms (RFC 9110, 10.2.3); None for nonsense."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (zoned - datetime.now(UTC)).total_seconds())
