"""Files that have no job yet: arrivals (inputs of a submission in progress) and uploads, and the bytes they hold."""

from __future__ import annotations

from datetime import datetime

from jobs.store.base import RedisBase
from jobs.store.types import ArrivalLostError, ByteQuota


class Uploads:
    def __init__(self, base: RedisBase) -> None:
        self._redis = base

    def add_arrival(self, job_id: str, within_s: float) -> None:
        """Files for a job with this id begin to arrive. jobs.create() makes them the job's own; if it is not called
        within within_s, they are discarded."""
        self._redis.client.zadd(self._redis.key("arrivals"), {job_id: self._redis.now_ms() + int(within_s * 1000)})

    def renew_arrival(self, job_id: str, within_s: float) -> bool:
        """Extend the time of an arrival. False: it had expired."""
        return self._redis.call_optional("renew_arrival", job_id, int(within_s * 1000)) is not None

    def reserve(self, job_id: str, size_bytes: int, quota: ByteQuota) -> None:
        """Set how many bytes this arrival holds, more or less than before. Raises StorageQuotaError, ArrivalLostError.

        The job keeps them, jobs.succeed() adds those of the result, and dropping the arrival or deleting the job frees
        them.
        """
        limits = (quota.owner, quota.of_owner, quota.of_all)
        if self._redis.call_optional("reserve", job_id, size_bytes, *limits, "arrivals") is None:
            raise ArrivalLostError(f"{job_id} was discarded before its files had arrived")

    def stored_bytes(self, owner: str | None = None) -> int:
        """Bytes held and reserved by this owner; None: by all."""
        return int(self._redis.field(self._redis.key("stored"), "all" if owner is None else owner) or 0)

    def expired_arrivals(self, limit: int = 100) -> list[str]:
        return self._redis.due("arrivals", limit)

    def drop_arrival(self, job_id: str) -> None:
        self._redis.call("drop_arrival", job_id)

    def add(self, upload_id: str, expires_at: datetime, owner: str = "") -> None:
        with self._redis.client.pipeline() as pipe:
            pipe.zadd(self._redis.key("uploads"), {upload_id: int(expires_at.timestamp() * 1000)})
            if owner:
                pipe.hset(self._redis.key("upload_owners"), upload_id, owner)
            pipe.execute()

    def exists(self, upload_id: str, owner: str | None = None) -> bool:
        """owner None: of any owner."""
        if self._redis.client.zscore(self._redis.key("uploads"), upload_id) is None:
            return False
        return owner is None or (self._redis.field(self._redis.key("upload_owners"), upload_id) or "") == owner

    def keep(self, upload_id: str, at_least_s: float, owner: str | None = None) -> str | None:
        """Keep an upload that is in use for at least this long. Returns its owner; None: there is no such upload, it
        has expired, or it belongs to another owner."""
        reply = self._redis.call_optional(
            "keep_upload", upload_id, "*" if owner is None else owner, int(at_least_s * 1000)
        )
        return None if reply is None else str(reply[0])

    def settle(self, upload_id: str, arrival: str, size_bytes: int, at_least_s: float, sha256: str) -> bool:
        """The file that arrived under `arrival` becomes the upload's, with its bytes; kept as by keep(). False: the
        upload has expired."""
        keep_ms = int(at_least_s * 1000)
        return self._redis.call_optional("settle_upload", upload_id, arrival, size_bytes, keep_ms, sha256) is not None

    def sha256(self, upload_id: str) -> str | None:
        """None: unknown, because the file was put to a presigned link."""
        return self._redis.field(self._redis.key("upload_sha256"), upload_id)

    def expect(self, upload_id: str, link_ends_at: datetime, most_bytes: int, quota: ByteQuota) -> None:
        """Reserve most_bytes for a file that the caller may put to a presigned link, which this service does not see
        used, until measure() is called. Raises StorageQuotaError."""
        self._redis.call("reserve", upload_id, most_bytes, quota.owner, quota.of_owner, quota.of_all, "")
        with self._redis.client.pipeline() as pipe:
            pipe.hset(self._redis.key("link_ends"), upload_id, str(int(link_ends_at.timestamp() * 1000)))
            pipe.zadd(self._redis.key("unmeasured"), {upload_id: self._redis.now_ms()})
            pipe.execute()

    def unmeasured(self, limit: int = 100) -> list[str]:
        return self._redis.due("unmeasured", limit)

    def measure(self, upload_id: str, size_bytes: int | None, again_s: float) -> None:
        """Set the size of the file that was put to the link; None: there is none yet. The upload is due for measuring
        again after again_s, until its link has expired."""
        self._redis.call("measure_upload", upload_id, "" if size_bytes is None else size_bytes, int(again_s * 1000))

    def take(self, upload_id: str) -> None:
        """A job uses the upload: it no longer expires by itself, drop() forgets it."""
        self._redis.client.zadd(self._redis.key("uploads"), {upload_id: "+inf"}, xx=True)

    def expired(self, limit: int = 100) -> list[str]:
        return self._redis.due("uploads", limit)

    def drop(self, upload_id: str) -> None:
        self._redis.call("drop_upload", upload_id)
