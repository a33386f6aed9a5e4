"""What can be wrong around the service, one look a function. Each says what it found, and what mends it."""

from __future__ import annotations

import shutil
import tempfile
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import redis

from jobs.objects import ObjectNotFoundError, ObjectStore, ObjectStoreError
from jobs.settings import Settings
from jobs.signing import SecretInvalidError, link_secret, webhook_secret
from jobs.store import JobStore

State = Literal["well", "note", "bad"]
# Receivers of webhooks refuse signatures that are 5 minutes off, S3 requests that are 15
CLOCK_NOTE_S, CLOCK_BAD_S = 1.0, 300.0
DISK_NOTE_BYTES = 5 * 1024**3
MAX_SHOWN = 20
WEBHOOKS_DUE_NOTE = 1000


@dataclass(frozen=True)
class Finding:
    """subject: what was looked at. remedy: empty where nothing is to be done. `note`: works, with a limit to know."""

    subject: str
    state: State
    found: str
    remedy: str = ""


def look_at_redis(client: redis.Redis) -> Iterator[Finding]:
    """Raises redis.RedisError where it does not answer."""
    info = client.info()
    # Valkey states the version of Redis that it is compatible with, and its own beside it
    version = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"version {info['redis_version']}"
    yield Finding("redis", "well", f"{version}, {client.dbsize()} keys")
    if info["aof_enabled"]:
        yield _append_only_file(client, info)
    else:
        remedy = "Set `appendonly yes` and `appendfsync always` (CONFIG SET, then CONFIG REWRITE)."
        yield Finding("redis persistence", "bad", "no append-only file: a restart loses accepted jobs", remedy)
    policy = info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        yield Finding("redis eviction", "well", "noeviction")
    else:
        remedy = "Set `maxmemory-policy noeviction`: the queue is not a cache."
        yield Finding("redis eviction", "bad", f"{policy}: jobs vanish when the memory is full", remedy)
    if info["maxmemory"] and info["used_memory"] > 0.8 * info["maxmemory"]:
        share = info["used_memory"] / info["maxmemory"]
        remedy = "Raise maxmemory, or lower RETALKING_RETENTION_S."
        yield Finding("redis memory", "note", f"{share:.0%} of maxmemory is used", remedy)


def _append_only_file(client: redis.Redis, info: dict[str, object]) -> Finding:
    if info.get("aof_last_write_status") != "ok":
        return Finding("redis persistence", "bad", "the last write to the disk failed", "Look at its disk and its log.")
    try:
        how = client.config_get("appendfsync").get("appendfsync", "")
    except redis.ResponseError:  # managed servers keep CONFIG to themselves
        return Finding("redis persistence", "note", "append-only file; how often it is synced is not told")
    if how == "always":
        return Finding("redis persistence", "well", "append-only file, synced at every write")
    remedy = "Set `appendfsync always` where no accepted job may be lost in a power failure."
    return Finding("redis persistence", "note", f"append-only file, synced `{how}`", remedy)


def look_at_clock(client: redis.Redis) -> Finding:
    """Against Redis, whose clock all times of jobs are taken from. Half of the journey is taken off."""
    before = time.time()
    seconds, micros = client.time()
    off_s = abs(seconds + micros / 1e6 - (before + time.time()) / 2)
    if off_s < CLOCK_NOTE_S:
        return Finding("clock", "well", f"{off_s * 1000:.0f} ms off Redis")
    state: State = "bad" if off_s >= CLOCK_BAD_S else "note"
    remedy = "Run a time service (NTP) here and where Redis runs: signatures of webhooks and of S3 hold the time."
    return Finding("clock", state, f"{off_s:.0f} s off Redis", remedy)


def look_at_objects(objects: ObjectStore) -> Iterator[Finding]:
    """Every right that the service needs, on one small object of its own."""
    key, copy = (f"health/{uuid.uuid4().hex}" for _ in range(2))
    steps = {
        "write": lambda: _write(objects, key),
        "read": lambda: b"".join(objects.read(key)),
        "list": lambda: list(objects.list_keys("health/")),
        "copy": lambda: objects.copy(key, copy),
        "delete": lambda: [objects.delete(each) for each in (copy, key)],
    }
    for name, step in steps.items():
        try:
            step()
        except (ObjectStoreError, ObjectNotFoundError) as fault:
            remedy = "Check endpoint, bucket name and keys, and give the key the right to get, put, list and delete."
            yield Finding("objects", "bad", f"can not {name}: {fault}", remedy)
            return
    yield Finding("objects", "well", f"can {', '.join(steps)}")
    yield from _look_at_links(objects)


def _write(objects: ObjectStore, key: str) -> None:
    with objects.writer(key, "text/plain") as writer:
        writer.write(b"probe")
        writer.commit()


def _look_at_links(objects: ObjectStore) -> Iterator[Finding]:
    """Callers fetch results by these links."""
    key = f"health/{uuid.uuid4().hex}"
    link = objects.presign_get(key, 60, "probe.txt")
    if link is None:
        return
    host = urllib.parse.urlsplit(link).netloc
    _write(objects, key)
    try:
        with urllib.request.urlopen(link, timeout=10) as answer:
            is_right = answer.read() == b"probe"
    except OSError:
        is_right = False
    finally:
        objects.delete(key)
    if is_right:
        yield Finding("presigned links", "well", f"serve from {host}")
    else:
        remedy = "Set RETALKING_S3_PUBLIC_ENDPOINT to an address at which callers reach the store."
        yield Finding("presigned links", "note", f"{host} does not serve them to this machine", remedy)


def look_at_secrets(settings: Settings) -> Iterator[Finding]:
    for name, read in {"link secret": link_secret, "webhook secret": webhook_secret}.items():
        is_set = bool(getattr(settings, name.replace(" ", "_")).get_secret_value())
        if not is_set and not (settings.data_dir / "secrets" / name.replace(" ", "_")).exists():
            remedy = f"Set RETALKING_{name.upper().replace(' ', '_')} where API and workers run on several machines."
            yield Finding(name, "note", "not set: each data folder makes its own at the first start", remedy)
            continue
        try:
            read(settings)
        except SecretInvalidError as fault:
            yield Finding(name, "bad", str(fault), "Replace it.")
        else:
            yield Finding(name, "well", "set" if is_set else "kept in the data folder")


def look_at_keys(settings: Settings, store: JobStore) -> Finding:
    host = urllib.parse.urlsplit(settings.public_url).hostname or ""
    if not settings.require_keys:
        if host.startswith("127.") or host in ("localhost", "::1"):
            return Finding("keys", "well", "not required, on loopback")
        remedy = "Set RETALKING_REQUIRE_KEYS=true, unless a proxy asks callers who they are."
        return Finding("keys", "note", f"not required, and callers come to {host}", remedy)
    usable = [key for key in store.keys.all() if key.revoked_at is None]
    if not usable:
        return Finding("keys", "bad", "required, and there is none", "Run `retalking keys create NAME --scope admin`.")
    return Finding("keys", "well", f"required; {len(usable)} usable")


def look_at_quarantine(store: JobStore) -> Finding:
    """Records that no process could read; everything else goes on without them."""
    total = store.quarantine.size()
    if not total:
        return Finding("records", "well", "all that were met could be read")
    shown = store.quarantine.records(limit=MAX_SHOWN)
    named = ", ".join(f"{record.kind} {record.id} ({record.reason})" for record in shown)
    more = f" and {total - len(shown)} more" if total > len(shown) else ""
    remedy = (
        "Tell their owners; delete them with `DELETE /quarantine/KIND/ID` (admin key), which takes their files along."
    )
    return Finding("records", "note", f"{total} in quarantine: {named}{more}", remedy)


def look_at_workers(settings: Settings, store: JobStore) -> Finding:
    live = store.workers.live()
    if not live:
        return Finding("workers", "bad", "no render worker is live", "Start one, and look at the end of its log.")
    oldest = datetime.now(UTC) - timedelta(seconds=settings.worker_ttl_s)
    silent = [worker for worker in live if not worker.busy_with and worker.polled_at and worker.polled_at < oldest]
    if silent:
        names = ", ".join(worker.id for worker in silent)
        return Finding("workers", "bad", f"{names}: asks for no jobs", "Restart it; its log says why.")
    engines = sorted({engine.name for worker in live for engine in worker.engines})
    return Finding("workers", "well", f"{len(live)} live, offering {', '.join(engines)}")


def look_at_janitor(store: JobStore) -> Finding:
    """What retention could not delete."""
    count = store.janitor_failures.count()
    if not count:
        return Finding("janitor", "well", "everything that was due was deleted")
    examples = ", ".join(sorted(store.janitor_failures.items())[:3])
    remedy = "Look for `janitor: an item failed` in the webhook worker's log, and at the rights of the object store."
    return Finding("janitor", "bad", f"{count} items can not be deleted, e.g. {examples}", remedy)


def look_at_webhooks(store: JobStore) -> Finding:
    backlog = store.webhooks.backlog()
    found = f"{backlog.pending} events pending, {backlog.due} of them due, {backlog.given_up} given up"
    if backlog.due > WEBHOOKS_DUE_NOTE:
        remedy = "See that a webhook worker runs; receivers that fail are named in `GET /webhooks/deliveries`."
        return Finding("webhooks", "note", found, remedy)
    return Finding("webhooks", "well", found)


def look_at_disk(settings: Settings) -> Iterator[Finding]:
    places = {"data": settings.data_dir, "scratch": settings.work_dir or Path(tempfile.gettempdir())}
    for name, folder in places.items():
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        text = f"{free / 1024**3:.1f} GiB free for {name}"
        remedy = "Make room: a job needs its inputs, its result and as much again."
        yield Finding("disk", "well", text) if free > DISK_NOTE_BYTES else Finding("disk", "note", text, remedy)


def look_at_weights(settings: Settings) -> Finding:
    from retalking_core.weights.errors import WeightsMissingError
    from retalking_core.weights.folder import find_file
    from retalking_core.weights.table import ENGINE_WEIGHTS, WEIGHT_FILES

    missing = []
    for name in ENGINE_WEIGHTS:
        try:
            find_file(settings.models_dir, WEIGHT_FILES[name])
        except WeightsMissingError:
            missing.append(WEIGHT_FILES[name].file)
    if not missing:
        return Finding("weights", "well", f"all {len(ENGINE_WEIGHTS)} files are in {settings.models_dir}")
    state: State = "bad" if settings.engine == "videoretalking" else "note"
    found = f"{len(missing)} of {len(ENGINE_WEIGHTS)} files are missing in {settings.models_dir}"
    return Finding("weights", state, found, "Run `retalking weights fetch`; without them only `preview` runs.")


def look_at_cuda(settings: Settings) -> Finding:
    from retalking_core.networks.inference import missing_build_tools

    state: State = "bad" if settings.engine == "videoretalking" else "note"
    try:
        import torch
    except ImportError:
        return Finding("cuda", state, "torch is not installed", "pip install 'retalking[gpu]' where the worker runs.")
    if not torch.cuda.is_available():
        remedy = f"Install a driver for CUDA {torch.version.cuda or '-'}; the neural engine needs a device."
        return Finding("cuda", state, "no device is seen", remedy)
    if settings.inference != "exact" and (obstacle := missing_build_tools()):
        return Finding("cuda", "bad", "a device is seen, but networks can not be compiled for it", obstacle)
    names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    told = ", ".join(f"{each.name} ({each.total_memory / 1024**3:.0f} GiB)" for each in names)
    return Finding("cuda", "well", told)
