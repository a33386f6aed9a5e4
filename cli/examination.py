"""What `retalking doctor` looks at, in order. Needs the service's own packages, unlike the command that prints it."""

from __future__ import annotations

from collections.abc import Iterator

import redis

from cli import diagnosis
from cli.diagnosis import Finding
from jobs.objects import ObjectStoreError
from jobs.opening import open_objects, open_store
from jobs.settings import Settings


def examine(settings: Settings) -> Iterator[Finding]:
    """One that breaks hides none of the others."""
    yield from _examine_redis(settings)
    yield from _examine_objects(settings)
    yield from diagnosis.look_at_secrets(settings)
    yield from diagnosis.look_at_disk(settings)
    yield from diagnosis.look_at_engines(settings)
    yield diagnosis.look_at_weights(settings)
    yield diagnosis.look_at_cuda(settings)


def _examine_redis(settings: Settings) -> Iterator[Finding]:
    client = redis.Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=5, socket_connect_timeout=5)
    try:
        client.ping()  # before the store, whose client would try again for seconds
        yield from diagnosis.look_at_redis(client)
        yield diagnosis.look_at_clock(client)
        store = open_store(settings)
        yield diagnosis.look_at_keys(settings, store)
        yield diagnosis.look_at_workers(settings, store)
        yield diagnosis.look_at_quarantine(store)
        yield diagnosis.look_at_janitor(store)
        yield diagnosis.look_at_webhooks(store)
    except redis.RedisError as fault:
        remedy = "Start it, or correct RETALKING_REDIS_URL (host, port, password)."
        yield Finding("redis", "bad", f"does not answer ({type(fault).__name__})", remedy)


def _examine_objects(settings: Settings) -> Iterator[Finding]:
    try:
        yield from diagnosis.look_at_objects(open_objects(settings))
    except (ObjectStoreError, ValueError) as fault:
        remedy = "Correct RETALKING_S3_ENDPOINT and its neighbours, or the rights of the data folder."
        yield Finding("objects", "bad", f"can not be opened: {fault}", remedy)
