"""Transfers between the service and its callers' servers: fetches of inputs given by URL, and exports of results.

An input is fetched while the job is queued and before any worker can claim it. A holder acts through the `Fetch` that
it was given; if the job is over or another fetch holds it, the holder gets LeaseLostError and its call has no effect.

A result is exported to where its caller wants it: a presigned PUT, or a folder of the object store. The success of a
job creates its export in the same atomic step (jobs/lua/finish.lua). The job has succeeded whatever becomes of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from jobs.models import DeliveryAttempt, ErrorInfo, Export, InputPart, InputRef, Job
from jobs.names import new_delivery_id
from jobs.store.base import RedisBase
from jobs.store.quarantine import Quarantine
from jobs.store.records import UNREADABLE, export_of, inputs_json, pairs, stored_json
from jobs.store.types import (
    ByteQuota,
    Fetch,
    JobNotFoundError,
    LeaseLostError,
    ReceiverRules,
    RecordUnreadableError,
)


class Fetches:
    def __init__(self, base: RedisBase, quarantine: Quarantine) -> None:
        self._redis, self._quarantine = base, quarantine

    def take(self, free: int, rules: ReceiverRules) -> list[Fetch]:
        """At most `free` due fetches, shared among receivers by the rules, each held for rules.hold_s. The receiver of
        a job is the host of the first URL among its inputs."""
        taken = []
        for fields, _ in self._redis.take_shared("fetch", free, rules):
            try:
                job = self._quarantine.readable_job(fields["id"], fields)
            except RecordUnreadableError:
                continue
            error = fields.get("fetch_error")
            last_error = ErrorInfo.model_validate_json(error) if error else None
            tries = int(fields["fetch_tries"])
            taken.append(Fetch(job, fields["holder"], int(fields["fetch_fence"]), tries, last_error))
        return taken

    def renew(
        self, fetch: Fetch, hold_s: float, *, stage: str = "", progress: float = 0.0, error: ErrorInfo | None = None
    ) -> bool:
        """Renew the hold; with a stage, store the progress as jobs.report() does. error: of a try that will be
        repeated; the job ends with it if this process dies in the last attempt. Returns whether cancellation was
        requested. Raises LeaseLostError."""
        report = (stage, repr(float(progress)), new_delivery_id(), stored_json(error) if error else "")
        (cancel,) = self._redis.call("renew_fetch", fetch.job_id, fetch.holder, int(hold_s * 1000), *report)
        return bool(cancel == "1")

    def reserve(self, fetch: Fetch, size_bytes: int, quota: ByteQuota) -> None:
        """Set the bytes that the fetched files hold, in addition to what arrived with the job. They are released unless
        the files become the job's. Raises StorageQuotaError, LeaseLostError."""
        self._redis.call(
            "reserve", fetch.job_id, size_bytes, quota.owner, quota.of_owner, quota.of_all, "", fetch.holder
        )

    def finish(self, fetch: Fetch, inputs: Mapping[InputPart, InputRef]) -> Job:
        """The inputs are stored: the job joins queue and outbox. Raises LeaseLostError, also if the job is over: then
        the caller must delete the files."""
        return self._end(fetch, "ready", outcome=inputs_json(inputs), receiver_did="answered")

    def fail(self, fetch: Fetch, error: ErrorInfo, *, is_receivers: bool, retention_s: int) -> Job:
        """queued -> failed. is_receivers: the host of the URL is at fault. Raises LeaseLostError."""
        receiver_did = "failed" if is_receivers else ""
        retention_ms = retention_s * 1000
        return self._end(
            fetch, "fail", outcome=stored_json(error), receiver_did=receiver_did, retention_ms=retention_ms
        )

    def release(self, fetch: Fetch, *, pause_s: float, error: ErrorInfo | None) -> Job:
        """Due again after pause_s. error: of this attempt; None if it was interrupted, and does not count. Raises
        LeaseLostError."""
        outcome = stored_json(error) if error else ""
        counts = int(error is not None)
        return self._end(fetch, "release", outcome=outcome, pause_ms=int(pause_s * 1000), counts=counts)

    def drop(self, fetch: Fetch) -> None:
        """End a fetch whose files are deleted because the job ended or went on without it. Does nothing if another
        fetch holds the job."""
        try:
            self._end(fetch, "drop")
        except (LeaseLostError, JobNotFoundError):
            return

    def count(self) -> int:
        """Jobs whose inputs are not fetched yet."""
        return self._redis.client.zcard(self._redis.key("fetches_due"))

    def _end(
        self,
        fetch: Fetch,
        verb: str,
        *,
        outcome: str = "",
        receiver_did: str = "",
        pause_ms: int = 0,
        counts: int = 1,
        retention_ms: int = 0,
    ) -> Job:
        end = (verb, outcome, receiver_did, pause_ms, counts, retention_ms, new_delivery_id())
        (fields,) = self._redis.call("end_fetch", fetch.job_id, fetch.holder, *end)
        return self._quarantine.readable_job(fetch.job_id, pairs(fields))


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
