"""Records that can not be read: set aside once, counted, logged, and kept until somebody deletes them.

One unreadable record must cost nobody but its owner, so every reader goes through here: it passes over what it can not
read instead of raising.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TypeVar

import redis
from pydantic import BaseModel, ValidationError

from jobs.redis_base import RedisPart
from jobs.redis_records import UNREADABLE, read_json
from jobs.store import QuarantinedRecord, RecordKind, RecordUnreadableError

log = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)
WRONG_TYPE = "WRONGTYPE"


class Quarantine(RedisPart):
    def quarantined(self, *, older_than_s: float = 0.0, limit: int = 100) -> list[QuarantinedRecord]:
        before_ms = self._now_ms() - int(older_than_s * 1000)
        rows = self._client.zrangebyscore(
            self._key("quarantine"), "-inf", before_ms, start=0, num=limit, withscores=True
        )
        notes = self._client.hmget(self._key("quarantine_notes"), [member for member, _ in rows]) if rows else []
        return [_record_of(member, at_ms, note) for (member, at_ms), note in zip(rows, notes, strict=True)]

    def quarantine_size(self) -> int:
        return self._client.zcard(self._key("quarantine"))

    def drop_quarantined(self, kind: RecordKind, record_id: str) -> None:
        self._call("drop_quarantined", record_id, kind)

    def _set_aside(self, kind: RecordKind, record_id: str, fault: BaseException) -> str:
        """Into quarantine; the owner of a job, as far as known. Nothing happens where the job is gone by now."""
        reason = _reason(fault)
        reply = self._call("quarantine", record_id, kind, reason)
        if reply is None:
            return ""
        is_new, owner = reply
        if is_new:
            log.error("unreadable %s %s is in quarantine: %s", kind, record_id, reason)
        return owner

    def _known_as_unreadable(self, job_id: str) -> RecordUnreadableError | None:
        if self._client.zscore(self._key("quarantine"), f"job:{job_id}") is None:
            return None
        note = self._client.hget(self._key("quarantine_notes"), f"job:{job_id}")
        return RecordUnreadableError(job_id, _note(note)["owner"])

    def _read_record(self, kind: RecordKind, record_id: str, model: type[M]) -> M | None:
        """A record that is one JSON text. None: there is none, or it can not be read."""
        try:
            text = self._client.get(self._key(kind, record_id))
            return read_json(model, text) if text is not None else None
        except (redis.ResponseError, *UNREADABLE) as fault:
            if not is_record_fault(fault):
                raise
            self._set_aside(kind, record_id, fault)
            return None

    def _read_records(self, kind: RecordKind, record_ids: list[str], model: type[M]) -> list[M]:
        """Those that are there and can be read, in one round trip while all can."""
        if not record_ids:
            return []
        try:
            texts = self._client.mget([self._key(kind, record_id) for record_id in record_ids])
            return [read_json(model, text) for text in texts if text is not None]
        except UNREADABLE:
            found = (self._read_record(kind, record_id, model) for record_id in record_ids)
            return [record for record in found if record is not None]


def is_record_fault(fault: BaseException) -> bool:
    """False for what the server said about itself: out of memory, read only, loading."""
    return not isinstance(fault, redis.RedisError) or WRONG_TYPE in str(fault)


def _reason(fault: BaseException) -> str:
    """Without content: a record holds what a caller wrote."""
    if isinstance(fault, ValidationError):
        first = fault.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(step) for step in first["loc"][:4])
        return f"{fault.title}{'.' if place else ''}{place}: {first['type']}"
    if isinstance(fault, KeyError):
        return f"the field {fault.args[0]!r} is missing"
    return type(fault).__name__


def _record_of(member: str, at_ms: float, note: str | None) -> QuarantinedRecord:
    kind, _, record_id = member.partition(":")
    told = _note(note)
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return QuarantinedRecord(kind, record_id, told["owner"], told["reason"], at)  # type: ignore[arg-type]


def _note(text: str | None) -> dict[str, str]:
    return {"owner": "", "reason": ""} | (json.loads(text) if text else {})
