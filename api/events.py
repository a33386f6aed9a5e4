"""The events of a job as Server-Sent Events."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from redis.exceptions import RedisError
from sse_starlette import EventSourceResponse, ServerSentEvent

from api.access import Caller, WithCaller, key_is_valid
from api.dependencies import Dependencies, WithDependencies
from api.jobs import JobId, find_job
from api.limits import LimitedResponse
from api.problems import refusals
from jobs.models import JobEvent
from jobs.store import JobNotFoundError

logger = logging.getLogger("retalking.api")
router = APIRouter(prefix="/jobs/{job_id}", tags=["events"])

HEARTBEAT_S = 15
RECONNECT_MS = 2000
# Notifications wake a stream. It also looks this often: for a revoked key, and for a job that was deleted.
CHECK_S = 1.0

_JOB_EVENT = {
    "id": "1763812345678-0",
    "event": "job.progress",
    "at": "2025-11-22T12:00:00Z",
    "status": "running",
    "stage": "synthesize",
    "progress": 0.42,
    "detail": {},
}
_EXAMPLE = {"id": "1763812345678-0", "event": "job.progress", "retry": RECONNECT_MS, "data": json.dumps(_JOB_EVENT)}
# One parsed event: OpenAPI 3.1 cannot describe a stream of them.
EVENT_SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "retry": {"type": "integer"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/JobEvent"},
        },
    },
    "required": ["id", "data"],
}


@router.get(
    "/events",
    operation_id="streamEvents",
    summary="Follow a job",
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "Every event from the beginning, then live; ends after the terminal one, or after "
            "`job.evaluated` where that follows, or what else is recorded by then (`job.exported`). Each `data` is a "
            "JobEvent. A comment line every 15 s keeps the connection open.",
            "content": {"text/event-stream": {"schema": EVENT_SCHEMA, "example": _EXAMPLE}},
        },
        204: {"description": "The job is over, and nothing followed `Last-Event-ID`: a browser stops reconnecting"},
        **refusals("job_not_found", "record_unreadable", "too_many_open", "service_unavailable"),
    },
)
async def stream_events(
    job_id: JobId,
    parts: WithDependencies,
    caller: WithCaller,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            min_length=3,
            max_length=39,
            pattern=r"^[0-9]{1,19}-[0-9]{1,19}$",
            description="Replay starts after this event; browsers send it when they reconnect",
        ),
    ] = None,
    named: Annotated[
        bool | None,
        Query(
            description="Whether each event carries its name in an `event` line, for `addEventListener(name)`; without "
            "one, `onmessage` gets it. Its name is in the data anyway. Default: false below `/v1`, else true"
        ),
    ] = None,
) -> Response:
    job = await run_in_threadpool(find_job, parts, caller, job_id)
    if job.status.is_over and not job.evaluation_pending and last_event_id is not None:
        remaining = await run_in_threadpool(parts.store.jobs.events, job_id, after=last_event_id)
        if not remaining:
            return Response(status_code=204)
    is_named = named if named is not None else not caller.base
    parts.metrics.listeners.inc()
    stream = EventStream(
        _follow(parts, caller, job_id, last_event_id, is_named),
        ping=HEARTBEAT_S,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )
    return stream.limit(parts.event_streams, caller.owner)


class EventStream(LimitedResponse, EventSourceResponse):
    """An open stream of events; the number of open ones is limited."""


async def _follow(
    parts: Dependencies, caller: Caller, job_id: str, after: str | None, is_named: bool
) -> AsyncIterator[ServerSentEvent]:
    """Events after an id, until the job is over or deleted or the caller's key is revoked. While the job store is
    unavailable, events are delayed."""
    with parts.changes.watch(job_id) as watch:
        while True:
            try:
                found, is_over = await parts.in_listener_thread(_poll, parts, caller, job_id, after)
            except (JobNotFoundError, _KeyRevokedError):
                return
            except RedisError as error:
                logger.warning(
                    "Events of %s are delayed, the job store is unavailable: %s", job_id, type(error).__name__
                )
                found, is_over = [], False
            is_last = is_over and not found
            for event in found:
                after = event.id
                yield _message(event, is_named)
                is_last |= event.status.is_over and not event.detail.get("evaluation_pending")
            if is_last:
                return
            await watch.wait(CHECK_S)


class _KeyRevokedError(Exception):
    """The key that opened the stream was revoked since."""


def _poll(parts: Dependencies, caller: Caller, job_id: str, after: str | None) -> tuple[list[JobEvent], bool]:
    """New events, and whether the job was over before they were read, so that they are the last ones.

    Raises JobNotFoundError and _KeyRevokedError.
    """
    if not key_is_valid(parts, caller.key_id):
        raise _KeyRevokedError
    job = parts.store.jobs.get(job_id)
    is_over = job.status.is_over and not job.evaluation_pending
    return parts.store.jobs.events(job_id, after=after), is_over


def _message(event: JobEvent, is_named: bool) -> ServerSentEvent:
    name = event.event if is_named else None
    return ServerSentEvent(data=event.model_dump_json(), event=name, id=event.id, retry=RECONNECT_MS, sep="\n")
