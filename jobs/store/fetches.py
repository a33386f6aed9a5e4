"""Fetching inputs that were given by URL, while the job is queued and before any worker can claim it.

A holder acts through the `Fetch` that it was given; if the job is over or another fetch holds it, the holder gets
LeaseLostError and its call has no effect.
"""

from __future__ import annotations

from collections.abc import Mapping

from jobs.models import ErrorInfo, InputPart, InputRef, Job
from jobs.names import new_delivery_id
from jobs.store.base import RedisBase
from jobs.store.quarantine import Quarantine
from jobs.store.records import inputs_json, pairs, stored_json
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

    def renew(self, fetch: Fetch, hold_s: float, *, stage: str = "", progress: float = 0.0) -> bool:
        """Renew the hold; with a stage, store the progress as jobs.report() does. Returns whether cancellation was
        requested. Raises LeaseLostError."""
        report = (stage, repr(float(progress)), new_delivery_id())
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
