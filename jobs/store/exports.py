"""Results on their way to where their callers want them: a presigned PUT, or a folder of the object store.

The success of a job creates its export in the same atomic step (jobs/lua/finish.lua). The job has succeeded whatever
becomes of it.
"""

from __future__ import annotations

from jobs.models import DeliveryAttempt, ErrorInfo, Export
from jobs.names import new_delivery_id
from jobs.store.base import RedisBase
from jobs.store.records import UNREADABLE, export_of, stored_json
from jobs.store.types import ReceiverRules


class Exports:
    def __init__(self, base: RedisBase) -> None:
        self._redis = base

    def take(self, free: int, rules: ReceiverRules) -> list[Export]:
        """At most `free` due exports, shared among receivers by the rules, each held for rules.hold_s."""
        taken = []
        for fields, attempts in self._redis.take_shared("export", free, rules):
            try:
                taken.append(export_of(fields, attempts))
            except UNREADABLE:
                self._redis.client.delete(self._redis.key("export", fields["id"]))
        return taken

    def find(self, job_id: str) -> Export | None:
        """None: there is none, or its record cannot be read."""
        fields = self._redis.fields(self._redis.key("export", job_id))
        attempts = self._redis.client.lrange(self._redis.key("attempts", job_id), 0, -1)
        try:
            return export_of(fields, [str(each) for each in attempts]) if fields else None
        except UNREADABLE:
            return None

    def renew(self, export: Export, hold_s: float, key: str = "") -> None:
        """Renew the hold. key: of the copy that is about to be written, so that it is deleted with the job. Raises
        LeaseLostError."""
        self._redis.call("renew_export", export.job_id, export.holder, int(hold_s * 1000), key)

    def finish(self, export: Export, attempt: DeliveryAttempt, copy_bytes: int = 0) -> None:
        """The result is there. copy_bytes: what it takes in the object store.

        Raises LeaseLostError, JobNotFoundError.
        """
        self._end(export, attempt, "done", "", 0, "answered", copy_bytes)

    def fail(self, export: Export, attempt: DeliveryAttempt, error: ErrorInfo, *, did: str) -> None:
        """No further attempt. did: `answered`, `failed` or empty, for the receiver. Raises as finish()."""
        self._end(export, attempt, "failed", stored_json(error), 0, did, 0)

    def retry(self, export: Export, attempt: DeliveryAttempt, error: ErrorInfo, *, pause_s: float, did: str) -> None:
        """Due again after pause_s. Raises as finish()."""
        self._end(export, attempt, "pending", stored_json(error), int(pause_s * 1000), did, 0)

    def deleted_copies(self, limit: int = 100) -> list[str]:
        """Ids of deleted jobs whose copies are to be deleted."""
        return self._redis.due("exported_files", limit)

    def copy_of(self, job_id: str) -> str | None:
        """Key of the copy of a deleted job."""
        return self._redis.field(self._redis.key("exported"), job_id)

    def drop_copy(self, job_id: str) -> None:
        """It is deleted."""
        with self._redis.client.pipeline() as pipe:
            pipe.hdel(self._redis.key("exported"), job_id)
            pipe.zrem(self._redis.key("exported_files"), job_id)
            pipe.execute()

    def count(self) -> int:
        """Exports that are not over."""
        return self._redis.client.zcard(self._redis.key("exports_due"))

    def _end(
        self, export: Export, attempt: DeliveryAttempt, state: str, error: str, pause_ms: int, did: str, size_bytes: int
    ) -> None:
        line = stored_json(attempt)
        more = (line, state, error, pause_ms, did, size_bytes, new_delivery_id())
        self._redis.call("end_export", export.job_id, export.holder, *more)
