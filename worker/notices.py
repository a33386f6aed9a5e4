"""Messages to render workers about a job; the janitor sends whatever is missed here."""

from __future__ import annotations

import logging

from celery import Celery

from jobs.messages import MessageNotSentError, ask_for_help, send_render
from jobs.models import Job, JobStatus
from jobs.store import JobStore

log = logging.getLogger(__name__)


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
        store.jobs.mark_message_sent(job.id)
