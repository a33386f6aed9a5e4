"""From settings to the job store and the object store, and how much may be stored: quotas and free space."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from jobs.errors import ServiceError
from jobs.objects import ObjectStore
from jobs.settings import Settings
from jobs.store import ByteQuota, JobStore
from jobs.store.keys import Account

# Pause before Redis is asked again where its data is (it was starting, or does not allow the question).
ASK_AGAIN_S = 60.0


def connect_redis(url: str, *, retries: int = 6, timeout_s: float = 10.0) -> redis.Redis:
    """A client that survives a restart of Redis: about 5 s of retries, then redis.ConnectionError or TimeoutError.

    timeout_s: of one try; half of it for connecting.
    """
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s / 2,
        socket_keepalive=True,
        health_check_interval=15,  # idle connections are pinged before use: a dead one looks alive
        retry=Retry(ExponentialBackoff(cap=2.0, base=0.1), retries=retries),
        retry_on_error=[redis.ConnectionError, redis.TimeoutError],
    )


def open_store(settings: Settings, *, retries: int = 6, timeout_s: float = 10.0) -> JobStore:
    """retries, timeout_s: as in connect_redis, for callers that must not block."""
    client = connect_redis(settings.redis_url.get_secret_value(), retries=retries, timeout_s=timeout_s)
    return JobStore(client, retention_s=settings.retention_s)


class FreeSpace:
    """Refuses new work while some space is left on the disks that the service cannot work without.

    A full disk stops Redis, and with it the service; the rest is for work accepted before: its results, its webhooks,
    the log of Redis.
    """

    def __init__(
        self, folders: Sequence[Path], floor_bytes: int, find_more: Callable[[], Path | None] = lambda: None
    ) -> None:
        """folders: on the disks to watch. floor_bytes: must stay free on each; 0: no check. find_more: one more folder,
        None while unknown."""
        self._folders = list(folders)
        self._floor_bytes = floor_bytes
        self._find_more: Callable[[], Path | None] | None = find_more
        self._ask_at_s = 0.0

    def check(self, coming_bytes: int = 0) -> None:
        """Raises ServiceError storage_full if less than the floor would be left. coming_bytes: about to be written."""
        if not self._floor_bytes:
            return
        self._look_for_more()
        if min(map(_free_bytes, self._folders)) - coming_bytes < self._floor_bytes:
            message = f"Fewer than {self._floor_bytes} bytes would be free on a disk of the service."
            raise ServiceError("storage_full", message)

    def _look_for_more(self) -> None:
        if self._find_more is None or time.monotonic() < self._ask_at_s:
            return
        self._ask_at_s = time.monotonic() + ASK_AGAIN_S
        found = self._find_more()
        if found is not None:
            self._folders.append(found)
            self._find_more = None


def watched_space(settings: Settings, store: JobStore) -> FreeSpace:
    """Watches the disk of data_dir (local objects, embedded Redis) and that of any other Redis on this machine."""
    return FreeSpace([settings.data_dir], settings.min_free_bytes, store.data_folder)


def byte_quota(settings: Settings, owner: str, account: Account | None) -> ByteQuota:
    """account: of the owner, None for jobs without one."""
    own = account.stored_bytes if account is not None else None
    return ByteQuota(owner, own or settings.stored_bytes_per_key, settings.stored_bytes)


def storage_refusal(*, is_owners: bool) -> ServiceError:
    """The public error for a StorageQuotaError."""
    if is_owners:
        message = "This account has reached its storage quota: uploads, inputs and results together."
        return ServiceError("storage_quota_exceeded", message)
    return ServiceError("storage_full", "The service has reached its storage quota.")


def open_objects(settings: Settings) -> ObjectStore:
    """S3 if a bucket is set, else files under data_dir/objects."""
    if settings.s3_bucket:
        from jobs.s3_objects import S3ObjectStore

        return S3ObjectStore(
            settings.s3_bucket,
            endpoint=settings.s3_endpoint,
            public_endpoint=settings.s3_public_endpoint,
            region=settings.s3_region,
            access_key_id=settings.s3_access_key_id.get_secret_value(),
            secret_access_key=settings.s3_secret_access_key.get_secret_value(),
        )
    from jobs.local_objects import LocalObjectStore

    # Half of the floor is for results of accepted jobs; the other half is for Redis alone
    return LocalObjectStore(settings.data_dir / "objects", keep_free_bytes=settings.min_free_bytes // 2)


def _free_bytes(folder: Path) -> int:
    """Of the nearest parent that exists: the folder may be created later."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
