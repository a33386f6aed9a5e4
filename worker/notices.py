"""Sending what a transition of a job has made due, at once; the janitor sends whatever is missed here."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from celery import Celery
from redis.exceptions import RedisError

from jobs.messages import MessageNotSentError, ask_for_help, send_delivery, send_render
from jobs.models import Job, JobStatus
from jobs.store import JobNotFoundError, JobStore

log = logging.getLogger(__name__)


class Notices:
    """Call it with a job id after a transition. It never raises: the transition has happened, messages are wake-ups."""

    def __init__(self, app: Celery, store: JobStore) -> None:
        self._app = app
        self._store = store

    def __call__(self, job_id: str) -> None:
        try:
            self._send(job_id)
        except JobNotFoundError:
            log.info("the job is gone", extra={"job": job_id})
        except (RedisError, MessageNotSentError) as fault:
            log.warning("messages left to the janitor: %s", type(fault).__name__, extra={"job": job_id})

    def _send(self, job_id: str) -> None:
        now = datetime.now(UTC)
        for delivery in self._store.deliveries(job_id):
            if delivery.state == "pending" and (delivery.next_attempt_at is None or delivery.next_attempt_at <= now):
                send_delivery(self._app, delivery.id)


def call_helpers(app: Celery, job: Job, count: int) -> None:
    """Wake as many workers for the job's segments. Never raises: who asks will ask again."""
    try:
        for _ in range(count):
            ask_for_help(app, job)
    except MessageNotSentError as fault:
        log.warning("no help called: %s", type(fault).__name__, extra={"job": job.id})


def send_job(app: Celery, store: JobStore, job: Job) -> None:
    """The broker takes the job's message, and the job leaves the outbox."""
    if job.status is JobStatus.QUEUED:
        send_render(app, job)
        store.mark_message_sent(job.id)
