"""From a checked submission to a stored job: exactly one job or none, its files with it, its message on the way."""

from __future__ import annotations

import logging
import math

import anyio
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from redis.exceptions import RedisError

from api.access import Caller
from api.claims import Claim, arriving, given_up
from api.parts import Parts
from api.problems import request_id_of
from api.submission import Submission, read_submission
from jobs.errors import ServiceError
from jobs.free_space import byte_quota
from jobs.ids import new_job_id
from jobs.messages import MessageNotSentError, send_render
from jobs.models import Job
from jobs.names import job_prefix
from jobs.objects import ObjectStoreError
from jobs.store import (
    ArrivalLostError,
    Created,
    IdempotencyConflictError,
    IdempotencyKey,
    JobNotFoundError,
    Origin,
    QuotaExceededError,
    RecordNotStorableError,
    RecordUnreadableError,
)
from jobs.traces import current_traceparent

logger = logging.getLogger("retalking.api")


async def accept_submission(request: Request, parts: Parts, caller: Caller, key: str | None) -> Created:
    """Receive, check, store, send. key: the caller's Idempotency-Key. Whatever is refused leaves no file behind."""
    with parts.submissions.take(caller.owner):
        return await _accept(request, parts, caller, key)


async def _accept(request: Request, parts: Parts, caller: Caller, key: str | None) -> Created:
    origin = Origin(
        caller.owner,
        caller.live_jobs(parts.settings.live_jobs_per_key),
        request_id=request_id_of(request),
        traceparent=current_traceparent(),
    )
    await run_in_threadpool(parts.space.check)
    if key is None:  # with a key it may be the repetition of a job that is there
        await run_in_threadpool(_check_quota, parts, origin)
    job_id = new_job_id()
    claim = Claim(parts, job_id, byte_quota(parts.settings, caller.owner, caller.key))
    try:
        async with arriving(parts, job_id):
            submission = await read_submission(request, parts, caller, claim)
            created = await run_in_threadpool(_create, parts, job_id, submission, key, origin)
    except _OutcomeUnknownError as unknown:
        raise unknown.cause from None
    except BaseException:
        await _remove_staged(parts, job_id)
        raise
    if created.is_new:
        await run_in_threadpool(_send, parts, created.job)
    else:
        await _remove_staged(parts, job_id)
    return created


class _OutcomeUnknownError(Exception):
    """The store broke off and can not be asked: the job may exist, so its files must stay. The caller's retry under
    the same Idempotency-Key finds it whole, or makes it."""

    def __init__(self, cause: RedisError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _check_quota(parts: Parts, origin: Origin) -> None:
    """So that nobody sends 2 GB to learn it; what counts is the count at the creation."""
    if origin.owner and parts.store.live_jobs(origin.owner) >= origin.live_jobs:
        raise _quota_exceeded(parts, origin)


def _quota_exceeded(parts: Parts, origin: Origin) -> ServiceError:
    """Worth asking again when a usual job is over; a guess, so between 1 s and a minute."""
    wait_s = min(60, max(1, math.ceil(parts.store.mean_run_s() or 10)))
    headers = {
        "Retry-After": str(wait_s),
        "RateLimit-Policy": f'"live-jobs";q={origin.live_jobs}',
        "RateLimit": f'"live-jobs";r=0;t={wait_s}',
    }
    message = f"This key may have {origin.live_jobs} jobs that are not over, and it has as many."
    return ServiceError("quota_exceeded", message, headers=headers)


def _create(parts: Parts, job_id: str, submission: Submission, key: str | None, origin: Origin) -> Created:
    settings = parts.settings
    memory = IdempotencyKey(key, submission.fingerprint, settings.idempotency_ttl_s) if key else None
    try:
        return parts.store.create(
            job_id,
            submission.spec,
            max_attempts=settings.max_attempts,
            idempotency=memory,
            origin=origin,
            arrived=True,
        )
    except ArrivalLostError:
        raise given_up() from None
    except QuotaExceededError:
        raise _quota_exceeded(parts, origin) from None
    except IdempotencyConflictError:
        message = "This Idempotency-Key came before with another body."
        raise ServiceError("idempotency_conflict", message) from None
    except RecordNotStorableError as fault:
        raise ServiceError("value_out_of_bounds", "What was sent can not be stored and read back as it is.") from fault
    except RedisError as cause:
        return _look_again(parts, job_id, cause)


def _look_again(parts: Parts, job_id: str, cause: RedisError) -> Created:
    """The connection broke during the creation: was it before or after?"""
    try:
        return Created(parts.store.get(job_id), True)
    except RecordUnreadableError:
        raise
    except JobNotFoundError:
        raise cause from None
    except RedisError:
        raise _OutcomeUnknownError(cause) from None


async def _remove_staged(parts: Parts, job_id: str) -> None:
    """Shielded: this also runs when the client went away and the request is being torn down."""
    with anyio.CancelScope(shield=True):
        try:
            await parts.in_upload_thread(parts.objects.delete_prefix, job_prefix(job_id))
            await run_in_threadpool(parts.store.drop_arrival, job_id)
        except (ObjectStoreError, RedisError) as error:
            logger.warning("Staged files of %s are left to the janitor: %s", job_id, type(error).__name__)


def _send(parts: Parts, job: Job) -> None:
    """Tell the workers; for a job whose inputs are still to be fetched, its fetcher does. The job is in the outbox
    already, so a broker that is down delays it and loses nothing."""
    if job.awaits_inputs:
        return
    try:
        send_render(parts.celery, job)
        parts.store.mark_message_sent(job.id)
    except (MessageNotSentError, RedisError) as error:
        logger.warning("The message for %s waits in the outbox: %s", job.id, type(error).__name__)
