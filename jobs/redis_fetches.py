"""Jobs whose inputs are addresses, from submission until their inputs are stored."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.ids import new_delivery_id
from jobs.models import ErrorInfo, InputRef, Job
from jobs.redis_jobs import JobRecords
from jobs.redis_records import inputs_json, pairs, stored_json
from jobs.store import ByteQuota, Fetch, JobNotFoundError, LeaseLostError, ReceiverRules, RecordUnreadableError


class Fetches(JobRecords):
    def take_fetches(self, free: int, rules: ReceiverRules) -> list[Fetch]:
        taken = []
        for fields, _ in self._take_shared("fetch", free, rules):
            try:
                job = self._job(fields["id"], fields)
            except RecordUnreadableError:  # set aside
                continue
            taken.append(Fetch(job, fields["holder"], int(fields["fetch_fence"]), int(fields["fetch_tries"])))
        return taken

    def renew_fetch(self, fetch: Fetch, hold_s: float, *, stage: str = "", progress: float = 0.0) -> bool:
        told = (stage, repr(float(progress)), new_delivery_id())
        (cancel,) = self._call("renew_fetch", fetch.job_id, fetch.holder, int(hold_s * 1000), *told)
        return cancel == "1"

    def reserve_fetch(self, fetch: Fetch, size_bytes: int, quota: ByteQuota) -> None:
        whose = (quota.owner, quota.of_owner, quota.of_all)
        self._call("reserve", fetch.job_id, size_bytes, *whose, "", fetch.holder)

    def finish_fetch(self, fetch: Fetch, inputs: Mapping[str, InputRef]) -> Job:
        return self._end_fetch(fetch, "ready", outcome=inputs_json(inputs), did="answered")

    def fail_fetch(self, fetch: Fetch, error: ErrorInfo, *, is_receivers: bool, retention_s: int) -> Job:
        did = "failed" if is_receivers else ""
        return self._end_fetch(fetch, "fail", outcome=stored_json(error), did=did, retention_ms=retention_s * 1000)

    def release_fetch(self, fetch: Fetch, *, pause_s: float, count_attempt: bool) -> Job:
        return self._end_fetch(fetch, "release", pause_ms=int(pause_s * 1000), counts=int(count_attempt))

    def drop_fetch(self, fetch: Fetch) -> None:
        try:
            self._end_fetch(fetch, "drop")
        except (LeaseLostError, JobNotFoundError):
            return

    def fetch_count(self) -> int:
        return self._client.zcard(self._key("fetches_due"))

    def _end_fetch(
        self,
        fetch: Fetch,
        verb: str,
        *,
        outcome: str = "",
        did: str = "",
        pause_ms: int = 0,
        counts: int = 1,
        retention_ms: int = 0,
    ) -> Job:
        what = (verb, outcome, did, pause_ms, counts, retention_ms, new_delivery_id())
        (fields,) = self._call("end_fetch", fetch.job_id, fetch.holder, *what)
        return self._job(fetch.job_id, pairs(fields))
