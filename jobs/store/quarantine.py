"""Records that cannot be read: set aside once, counted, logged, and kept until an operator deletes them.

One unreadable record must affect nobody but its owner, so every reader skips what it cannot read instead of raising.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TypeVar, cast

import redis
from pydantic import BaseModel, ValidationError

from jobs.models import Job
from jobs.store.base import RedisBase
from jobs.store.records import UNREADABLE, job_of, read_json
from jobs.store.types import QuarantinedRecord, RecordKind, RecordUnreadableError

log = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)


class Quarantine:
    def __init__(self, base: RedisBase) -> None:
        self._redis = base

    def records(self, *, older_than_s: float = 0.0, limit: int = 100) -> list[QuarantinedRecord]:
        """Records found unreadable at least that long ago, oldest first."""
        before_ms = self._redis.now_ms() - int(older_than_s * 1000)
        rows = self._redis.range_by_score(self._redis.key("quarantine"), "-inf", before_ms, limit)
        members = [member for member, _ in rows]
        notes = self._redis.client.hmget(self._redis.key("quarantine_notes"), members) if members else []
        return [
            _record_of(member, at_ms, cast("str | None", note))
            for (member, at_ms), note in zip(rows, notes, strict=True)
        ]

    def size(self) -> int:
        return self._redis.client.zcard(self._redis.key("quarantine"))

    def drop(self, kind: RecordKind, record_id: str) -> None:
        """Forget the record and everything attached to it; the caller deletes the files of a job before. Raises
        JobNotFoundError if it is not in quarantine."""
        self._redis.call("drop_quarantined", record_id, kind)

    def set_aside(self, kind: RecordKind, record_id: str, fault: BaseException) -> str:
        """Move a record into quarantine. Returns the owner of a job, empty if unknown. Does nothing if the job has been
        deleted meanwhile."""
        reason = _reason(fault)
        reply = self._redis.call_optional("quarantine", record_id, kind, reason)
        if reply is None:
            return ""
        is_new, owner = reply
        if is_new:
            log.error("unreadable %s %s is in quarantine: %s", kind, record_id, reason)
        return str(owner)

    def find_job(self, job_id: str) -> RecordUnreadableError | None:
        """The error to raise for a job in quarantine; None if it is not there."""
        if self._redis.client.zscore(self._redis.key("quarantine"), f"job:{job_id}") is None:
            return None
        note = self._redis.field(self._redis.key("quarantine_notes"), f"job:{job_id}")
        return RecordUnreadableError(job_id, _note(note)["owner"])

    def readable_job(self, job_id: str, fields: dict[str, str]) -> Job:
        """The job with these fields. If they cannot be read, sets the record aside and raises RecordUnreadableError."""
        try:
            return job_of(fields)
        except UNREADABLE as fault:
            raise RecordUnreadableError(job_id, self.set_aside("job", job_id, fault)) from fault

    def read_record(self, kind: RecordKind, record_id: str, model: type[M]) -> M | None:
        """A record stored as one JSON text. None: there is none, or it cannot be read."""
        try:
            text = self._redis.text(self._redis.key(kind, record_id))
            return read_json(model, text) if text is not None else None
        except (redis.ResponseError, *UNREADABLE) as fault:
            if not is_record_fault(fault):
                raise
            self.set_aside(kind, record_id, fault)
            return None

    def read_records(self, kind: RecordKind, record_ids: list[str], model: type[M]) -> list[M]:
        """The readable ones of these records, in one round trip unless one of them is unreadable."""
        if not record_ids:
            return []
        try:
            texts = self._redis.client.mget([self._redis.key(kind, record_id) for record_id in record_ids])
            return [read_json(model, str(text)) for text in texts if text is not None]
        except UNREADABLE:
            found = (self.read_record(kind, record_id, model) for record_id in record_ids)
            return [record for record in found if record is not None]


def is_record_fault(fault: BaseException) -> bool:
    """False for an error of the server itself: out of memory, read only, loading."""
    return not isinstance(fault, redis.RedisError) or "WRONGTYPE" in str(fault)


def _reason(fault: BaseException) -> str:
    """Without content: a record contains what a caller wrote."""
    if isinstance(fault, ValidationError):
        first = fault.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(step) for step in first["loc"][:4])
        return f"{fault.title}{'.' if place else ''}{place}: {first['type']}"
    if isinstance(fault, KeyError):
        return f"the field {fault.args[0]!r} is missing"
    return type(fault).__name__


def _record_of(member: str, at_ms: float, text: str | None) -> QuarantinedRecord:
    kind, _, record_id = member.partition(":")
    note = _note(text)
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return QuarantinedRecord(cast("RecordKind", kind), record_id, note["owner"], note["reason"], at)


def _note(text: str | None) -> dict[str, str]:
    return {"owner": "", "reason": ""} | (json.loads(text) if text else {})
