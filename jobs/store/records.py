"""Conversion between models and what Redis stores: hash fields and JSON texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter

from jobs.models import (
    Batch,
    BatchCounts,
    Delivery,
    DeliveryAttempt,
    ErrorInfo,
    Export,
    InputPart,
    InputRef,
    Job,
    JobEvent,
    JobSnapshot,
    JobSpec,
    JobStatus,
    MetricResult,
    RenderInfo,
    ResultInfo,
)
from jobs.objects import checked_key
from jobs.store.types import RecordNotStorableError

_METRICS = TypeAdapter(list[MetricResult])
_INPUTS = TypeAdapter(dict[InputPart, InputRef])
M = TypeVar("M", bound=BaseModel)

# What reading a record raises if the record is at fault. Errors of pydantic, of JSON and of UTF-8 are ValueErrors.
UNREADABLE = (ValueError, KeyError, TypeError, RecursionError)
# Numbers that the Lua scripts calculate with, besides those of the model
_SCRIPT_NUMBERS = ("seq", "priority", "fence", "told_percent", "told_tenth", "progress_events")


def read_json(model: type[M], text: str) -> M:
    """Unknown fields were written by a newer version and are ignored."""
    return model.model_validate_json(text, extra="ignore")


def stored_json(record: BaseModel) -> str:
    """JSON text of a record, checked by reading it back: the serializer silently changes some values (NaN to null, a
    lone surrogate to a replacement character).

    Raises RecordNotStorableError.
    """
    try:
        text = record.model_dump_json()
        is_same = read_json(type(record), text) == record
    except UNREADABLE as fault:
        raise RecordNotStorableError(f"{type(record).__name__} cannot be read back: {type(fault).__name__}") from fault
    if not is_same:
        raise RecordNotStorableError(f"{type(record).__name__} changes when it is read back")
    return text


def pairs(flat: Iterable[str]) -> dict[str, str]:
    """[name, value, name, value, ...] as a script returns HGETALL -> a dictionary."""
    items = iter(flat)
    return dict(zip(items, items, strict=True))


def time_of(text: str | None) -> datetime | None:
    """Milliseconds since 1970 as text -> aware UTC; '' and None -> None."""
    return datetime.fromtimestamp(int(text) / 1000, UTC) if text else None


def _required_time(text: str) -> datetime:
    time = time_of(text)
    if time is None:
        raise ValueError("a time is missing")
    return time


def job_of(fields: dict[str, str]) -> Job:
    """Raises one of UNREADABLE, also for a field that only scripts and views need: a job that is read here can be
    listed, claimed, finished and deleted."""

    def parsed(model: type[M], name: str) -> M | None:
        return read_json(model, fields[name]) if fields.get(name) else None

    for name in _SCRIPT_NUMBERS:
        int(fields[name])
    result = parsed(ResultInfo, "result")
    if result is not None:
        checked_key(result.key)
    return Job(
        id=fields["id"],
        spec=read_json(JobSpec, fields["spec"]),
        owner=fields.get("owner", ""),
        request_id=fields.get("request_id", ""),
        traceparent=fields.get("traceparent", ""),
        status=JobStatus(fields["status"]),
        stage=fields.get("stage") or None,
        progress=float(fields["progress"]),
        attempt=int(fields["attempt"]),
        fence=int(fields["fence"]),
        max_attempts=int(fields["max_attempts"]),
        cancel_requested=fields["cancel_requested"] == "1",
        worker=fields.get("worker") or None,
        created_at=_required_time(fields["created_ms"]),
        started_at=time_of(fields.get("started_ms")),
        finished_at=time_of(fields.get("finished_ms")),
        deadline_at=time_of(fields.get("deadline_ms")),
        delete_at=time_of(fields.get("delete_ms")),
        error=parsed(ErrorInfo, "error"),
        result=result,
        render=parsed(RenderInfo, "render"),
        evaluation=_METRICS.validate_json(fields["evaluation"], extra="ignore") if fields.get("evaluation") else None,
        evaluation_pending=fields.get("evaluation_state") == "pending",
        awaits_inputs=fields.get("inputs") == "wanted",
        fetched=_fetched_of(fields.get("fetched")),
    )


def inputs_json(inputs: Mapping[InputPart, InputRef]) -> str:
    return _INPUTS.dump_json(dict(inputs)).decode()


def _fetched_of(text: str | None) -> dict[InputPart, InputRef]:
    inputs = _INPUTS.validate_json(text) if text else {}
    for ref in inputs.values():
        checked_key(str(ref.key))
    return inputs


def metrics_json(metrics: Iterable[MetricResult]) -> str:
    """As stored_json()."""
    text = _METRICS.dump_json(list(metrics)).decode()
    try:
        _METRICS.validate_json(text)
    except UNREADABLE as fault:
        raise RecordNotStorableError("the evaluation cannot be read back") from fault
    return text


def batch_of(fields: dict[str, str]) -> Batch:
    """Raises one of UNREADABLE."""
    number = {
        name: int(fields[name]) for name in ("total", "next", "dropped", *BatchCounts.model_fields.keys() - {"waiting"})
    }
    return Batch(
        id=fields["id"],
        status=fields["status"],
        owner=fields["owner"],
        request_id=fields["request_id"],
        traceparent=fields["traceparent"],
        metadata=json.loads(fields["metadata"]),
        webhook_url=fields["webhook_url"] or None,
        total=number["total"],
        next=number["next"],
        cancel_requested=fields["cancel_requested"] == "1",
        counts=BatchCounts(
            waiting=number["total"] - number["next"],
            queued=number["queued"],
            running=number["running"],
            succeeded=number["succeeded"],
            failed=number["failed"],
            canceled=number["canceled"] + number["dropped"],
        ),
        tries=int(fields["tries"]),
        paused_until=time_of(fields["paused_until"]),
        created_at=_required_time(fields["created_ms"]),
        kept_at=_required_time(fields["kept_ms"]),
        finished_at=time_of(fields.get("finished_ms")),
        delete_at=time_of(fields.get("delete_ms")),
    )


def event_of(event_id: str, fields: dict[str, str]) -> JobEvent:
    return JobEvent(
        id=event_id,
        event=fields["event"],
        at=_required_time(fields["at"]),
        status=JobStatus(fields["status"]),
        stage=fields["stage"] or None,
        progress=float(fields["progress"]),
        # Lua has one table type: an empty one is written as a JSON object, which is what detail is
        detail=json.loads(fields["detail"]),
    )


def delivery_of(fields: dict[str, str], attempts: Iterable[str]) -> Delivery:
    return Delivery(
        id=fields["id"],
        job_id=fields.get("job_id", ""),
        batch_id=fields.get("batch_id", ""),
        event=fields["event"],
        state=fields["state"],
        created_at=_required_time(fields["created_ms"]),
        next_attempt_at=time_of(fields["next_ms"]) if fields["state"] == "pending" else None,
        attempts=[read_json(DeliveryAttempt, line) for line in attempts],
        tries=int(fields.get("tries", 0)),
        holder=fields.get("holder", ""),
        snapshot=_snapshot_of(json.loads(fields["snapshot"])) if "snapshot" in fields else None,
    )


def export_of(fields: dict[str, str], attempts: Iterable[str]) -> Export:
    """Raises one of UNREADABLE."""
    is_pending = fields["state"] == "pending"
    return Export(
        job_id=fields["id"],
        state=fields["state"],
        attempts=[read_json(DeliveryAttempt, line) for line in attempts],
        next_attempt_at=time_of(fields["next_ms"]) if is_pending else None,
        error=read_json(ErrorInfo, fields["error"]) if fields["error"] else None,
        finished_at=time_of(fields["finished_ms"]),
        key=fields["key"],
        tries=int(fields["tries"]),
        holder=fields["holder"],
    )


def _snapshot_of(fields: dict[str, str]) -> JobSnapshot:
    return JobSnapshot(
        status=JobStatus(fields["status"]),
        stage=fields["stage"] or None,
        progress=float(fields["progress"]),
        attempt=int(fields["attempt"]),
        cancel_requested=fields["cancel_requested"] == "1",
        started_at=time_of(fields["started_ms"]),
        finished_at=time_of(fields["finished_ms"]),
        delete_at=time_of(fields["delete_ms"]),
    )
