"""Delivery of one webhook event: sign, post, record the outcome. The job store keeps the schedule of retries.

Signed as Standard Webhooks (https://www.standardwebhooks.com): `webhook-id` is the delivery's id, the same in
all its attempts; `webhook-timestamp` is the time of the attempt.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from redis.exceptions import RedisError
from standardwebhooks import Webhook

from jobs.errors import ServiceError
from jobs.models import (
    Batch,
    BatchMessage,
    BatchView,
    Delivery,
    DeliveryAttempt,
    DeliveryState,
    Job,
    JobView,
    WebhookMessage,
)
from jobs.settings import Settings
from jobs.signing import WebhookSecrets
from jobs.store import BatchNotFoundError, JobNotFoundError, JobStore
from jobs.telemetry import log_context, span
from worker.egress import Egress, UnreachableError

log = logging.getLogger(__name__)

# Read so that the receiver can finish its response; never kept.
MAX_ANSWER_BYTES = 4096
GONE = 410
OVERLOADED = (429, 503)
# Longest Retry-After that is honored.
LONGEST_PAUSE_S = 86400.0
# Each pause is extended at random by up to this share, so that a recovered receiver does not get all events at once.
JITTER = 0.1


@dataclass(frozen=True)
class Answer:
    """Response of a receiver."""

    status: int
    retry_after_s: float | None = None
    """Its Retry-After header, in seconds."""


@dataclass(frozen=True)
class Verdict:
    """Outcome of one attempt."""

    state: DeliveryState
    """`delivered`, `given_up`, or `pending` with a pause."""
    retry_in_s: float | None = None
    receiver_did: Literal["answered", "failed", ""] = ""
    """For the circuit breaker of the receiver."""


class WebhookDeliverer:
    """Sends deliveries that the store assigned to this process. view: public form of a job at a point in time.
    batch_view: that of a batch."""

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        secrets: WebhookSecrets,
        view: Callable[[Job, datetime], JobView],
        batch_view: Callable[[Batch], BatchView],
    ) -> None:
        self._store = store
        self._settings = settings
        self._secrets = secrets
        self._view = view
        self._batch_view = batch_view

    def deliver(self, delivery: Delivery) -> Delivery | None:
        """Make one attempt, and record its outcome. Returns None when the job or batch was deleted meanwhile.

        Raises RedisError; the delivery is due again when its hold expires.
        """
        try:
            if delivery.batch_id:
                subject: Job | Batch = self._store.batches.get(delivery.batch_id)
            else:
                subject = self._store.jobs.get(delivery.job_id)
        except (JobNotFoundError, BatchNotFoundError):
            return None
        named = {"job": subject.id, "delivery": delivery.id, "event": delivery.event}
        with (
            log_context(request=subject.request_id),
            span("deliver webhook", kind="client", parent=subject.traceparent, **named),
        ):
            attempt, verdict = self._attempt(delivery, subject)
            log.info("webhook %s", verdict.state, extra=named | {"status": attempt.status_code})
        try:
            return self._store.webhooks.record_attempt(
                delivery.id,
                attempt,
                state=verdict.state,
                retry_in_s=verdict.retry_in_s,
                holder=delivery.holder,
                receiver_did=verdict.receiver_did,
                breaker_s=self._settings.webhook_breaker_s,
            )
        except JobNotFoundError:
            return None

    def _attempt(self, delivery: Delivery, subject: Job | Batch) -> tuple[DeliveryAttempt, Verdict]:
        at, began = datetime.now(UTC), time.monotonic()
        status, error = None, None
        try:
            data: JobView | BatchView
            if isinstance(subject, Batch):
                url, data = subject.webhook_url, self._batch_view(subject)
            else:
                url = subject.spec.request.webhook_url
                data = self._view(delivery.job_then(subject), delivery.created_at)
            body = event_body(delivery, subject.owner, data)
            headers = signed_headers(self._secrets.of(subject.owner), delivery.id, at, body)
            answer = self._post(str(url), subject.owner, body, headers)
        except UnreachableError as fault:
            error = f"The address could not be reached: {fault}."
            verdict = self._again(delivery, None, "failed")
        except ServiceError as refusal:  # the address is no longer allowed: it was public at submission
            error = refusal.message
            verdict = Verdict("given_up")
        except RedisError:  # no request was made
            raise
        except Exception as fault:
            log.exception("webhook not sent", extra={"delivery": delivery.id})
            error = f"The request could not be made ({type(fault).__name__})."
            verdict = self._again(delivery, None, "failed")
        else:
            status = answer.status
            error = None if 200 <= status < 300 else describe_status(status)
            verdict = self._judge(answer, delivery)
        duration_ms = round((time.monotonic() - began) * 1000)
        return DeliveryAttempt(at=at, status_code=status, error=error, duration_ms=duration_ms), verdict

    def _post(self, url: str, owner: str, body: str, headers: Mapping[str, str]) -> Answer:
        """Send the request. The status decides; a body that is slow or breaks off changes nothing."""
        timeout_s = self._settings.webhook_timeout_s
        egress = Egress(tuple(self._settings.allow_private_hosts), idle_s=timeout_s, total_s=timeout_s, owner=owner)
        received: Answer | None = None
        try:
            with egress.exchange("POST", url, headers, body.encode()) as answer:
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

    def _judge(self, answer: Answer, delivery: Delivery) -> Verdict:
        if 200 <= answer.status < 300:
            return Verdict("delivered", None, "answered")
        if answer.status == GONE:
            return Verdict("given_up", None, "answered")
        if answer.status in OVERLOADED:
            return self._again(delivery, answer.retry_after_s, "failed")
        # A 4xx shows that the receiver works, a 5xx that it may not.
        return self._again(delivery, None, "failed" if answer.status >= 500 else "answered")

    def _again(self, delivery: Delivery, asked_s: float | None, receiver_did: Literal["answered", "failed"]) -> Verdict:
        """Retry after the next pause of the schedule, or after what the receiver requested if that is longer."""
        pauses_s = self._settings.webhook_retries_s
        if delivery.tries >= len(pauses_s):
            return Verdict("given_up", None, receiver_did)
        pause_s = pauses_s[delivery.tries] * (1 + random.uniform(0, JITTER))
        return Verdict("pending", max(pause_s, asked_s or 0.0), receiver_did)


def retry_window_s(settings: Settings) -> float:
    """Upper bound of the time for all attempts at an event: each pause and each request at its longest. A receiver that
    requests more by Retry-After gets fewer attempts."""
    pauses_s = settings.webhook_retries_s
    return sum(pauses_s) * (1 + JITTER) + (len(pauses_s) + 1) * settings.webhook_timeout_s + 3600.0


def event_body(delivery: Delivery, owner: str, data: JobView | BatchView) -> str:
    """JSON of an event: `timestamp` is when it happened, `data` the job or batch at that time, `owner` the id of its
    account."""
    shape = BatchMessage if isinstance(data, BatchView) else WebhookMessage
    happened = delivery.created_at.astimezone(UTC).isoformat()
    message = shape.model_validate(
        {"type": delivery.event, "timestamp": happened, "owner": owner or None, "data": data}
    )
    return json.dumps(message.model_dump(mode="json"), separators=(",", ":"))


def signed_headers(secrets: Sequence[str], delivery_id: str, at: datetime, body: str) -> dict[str, str]:
    """Headers with one signature for each secret. at: in UTC; the library ignores the time zone."""
    return {
        "Content-Type": "application/json",
        "webhook-id": delivery_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(delivery_id, at, body) for secret in secrets),
    }


def describe_status(status: int) -> str:
    if 300 <= status < 400:
        return f"The address answered with the redirect {status}; redirects are not followed."
    return f"The address answered with status {status}."


def retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, section 10.2.3), 0 to LONGEST_PAUSE_S; None if invalid."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        # Bounded: parsing a huge number is slow.
        return min(LONGEST_PAUSE_S, float(text[:400]))
    try:
        moment = parsedate_to_datetime(text)
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return min(LONGEST_PAUSE_S, max(0.0, (zoned - datetime.now(UTC)).total_seconds()))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
