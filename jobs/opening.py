"""From settings to the two stores: the only place that knows which implementation serves."""

from __future__ import annotations

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from jobs.free_space import FreeSpace
from jobs.objects import ObjectStore
from jobs.redis_store import RedisJobStore
from jobs.settings import Settings
from jobs.store import JobStore


def connect_redis(url: str, *, retries: int = 6, timeout_s: float = 10.0) -> redis.Redis:
    """A client that survives a restart of Redis: about 5 s of retries, then redis.ConnectionError or TimeoutError.

    timeout_s: of one try; a connection is waited for half as long.

    health_check_interval: a connection that idled longer is pinged before use, since a dead one looks alive.
    """
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s / 2,
        socket_keepalive=True,
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=2.0, base=0.1), retries=retries),
        retry_on_error=[redis.ConnectionError, redis.TimeoutError],
    )


def open_store(settings: Settings, *, retries: int = 6, timeout_s: float = 10.0) -> JobStore:
    """retries, timeout_s: as in connect_redis, for callers that must not wait."""
    client = connect_redis(settings.redis_url.get_secret_value(), retries=retries, timeout_s=timeout_s)
    return RedisJobStore(client, retention_s=settings.retention_s)


def watched_space(settings: Settings, store: JobStore) -> FreeSpace:
    """The data folder holds local objects and the embedded Redis; another Redis on this machine says where it is."""
    return FreeSpace([settings.data_dir], settings.min_free_bytes, store.data_folder)


def open_objects(settings: Settings) -> ObjectStore:
    """S3 when a bucket is set, else files under data_dir/objects."""
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

    # Half of the floor is for results of jobs that were accepted above it; the other half is Redis' alone
    return LocalObjectStore(settings.data_dir / "objects", keep_free_bytes=settings.min_free_bytes // 2)
