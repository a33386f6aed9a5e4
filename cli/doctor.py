"""`retalking doctor`: checks of everything around the service, each with what it found and how to fix it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from cli.extras import MissingExtraError
from jobs.objects import ObjectNotFoundError, ObjectStore, ObjectStoreError
from retalking_client.cli.common import CommandError
from retalking_core.vocabulary.engines import AUTO, preferred_engine

if TYPE_CHECKING:
    import redis

    from jobs.settings import Settings
    from jobs.store import JobStore
    from retalking_core.networks.kernels import KernelCache

State = Literal["ok", "warning", "error"]
_COLORS = {"ok": "green", "warning": "yellow", "error": "red"}
# Receivers of webhooks refuse signatures that are 5 minutes off; S3 refuses requests that are 15 minutes off.
CLOCK_WARNING_S, CLOCK_ERROR_S = 1.0, 300.0
DISK_WARNING_BYTES = 5 * 1024**3
MAX_SHOWN = 20
WEBHOOKS_DUE_WARNING = 1000
REDIS_TIMEOUT_S = 5.0
# Checked in this order, by what they need.
NEED_REDIS = ("clock", "keys", "workers", "records", "janitor", "webhooks")


@dataclass(frozen=True)
class Finding:
    """Outcome of one check."""

    subject: str
    state: State
    """`warning`: works, with a limitation, or was not checked."""
    found: str
    remedy: str = ""
    """Empty if nothing needs to be done."""


def doctor(
    data: Annotated[
        Path | None,
        typer.Option(help="Data folder of a running `retalking up`  [default: RETALKING_DATA_DIR, else data]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON")] = False,
) -> None:
    """Check Redis, object store, clock, secrets, keys, workers, disk, weights and CUDA, with the settings of this
    environment. Without a running service, checks what does not need one. Exits with 1 if there is an error."""
    try:
        from cli.stack.redis_server import store_settings
        from jobs.settings import Settings
    except ImportError as error:
        raise MissingExtraError("jobs", error.name) from error
    try:
        findings = list(run_checks(store_settings(data)))
    except CommandError as error:
        if error.code != "store_not_found":
            raise
        settings = Settings()
        folder = (data or settings.data_dir).expanduser()
        findings = list(run_checks(settings.model_copy(update={"data_dir": folder}), is_running=False))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    if any(finding.state == "error" for finding in findings):
        raise typer.Exit(1)


def _print(findings: list[Finding]) -> None:
    table = Table("", "check", "found", "remedy", box=None)
    for finding in findings:
        color = _COLORS[finding.state]
        table.add_row(f"[{color}]{finding.state}[/]", finding.subject, finding.found, finding.remedy)
    (Console() if sys.stdout.isatty() else Console(width=240)).print(table)  # in a pipe no cell is cut


def run_checks(settings: Settings, *, is_running: bool = True) -> Iterator[Finding]:
    """All checks; one that fails does not prevent the others.

    is_running: False if no `retalking up` runs on the data folder, and no Redis is configured.
    """
    if is_running:
        yield from _check_stores(settings)
    else:
        found = f"not reachable: RETALKING_REDIS_URL is not set, and no `retalking up` runs on {settings.data_dir}"
        remedy = "Start `retalking up`, pass its folder with --data, or set RETALKING_REDIS_URL."
        yield Finding("redis", "error", found, remedy)
        yield from _not_reachable(NEED_REDIS)
    if is_running or settings.s3_bucket or settings.data_dir.exists():
        yield from _open_and_check_objects(settings)
    else:
        yield Finding("objects", "warning", f"not reachable: there is no data folder {settings.data_dir}")
    yield from check_secrets(settings)
    yield from check_disk(settings)
    yield from check_engines(settings)
    yield check_weights(settings)
    yield from check_cuda(settings)


def _check_stores(settings: Settings) -> Iterator[Finding]:
    import redis

    from jobs.opening import open_store

    url = settings.redis_url.get_secret_value()
    client = redis.Redis.from_url(url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S)
    pending = list(NEED_REDIS)
    try:
        client.ping()  # before the store, whose client retries for seconds
        yield from check_redis(client)
        store = open_store(settings)
        checks: dict[str, Callable[[], Finding]] = {
            "clock": lambda: check_clock(client),
            "keys": lambda: check_keys(settings, store),
            "workers": lambda: check_workers(settings, store),
            "records": lambda: check_quarantine(store),
            "janitor": lambda: check_janitor(store),
            "webhooks": lambda: check_webhooks(store),
        }
        for subject in NEED_REDIS:
            yield checks[subject]()
            pending.remove(subject)
    except redis.RedisError as fault:
        remedy = "Start it, or correct RETALKING_REDIS_URL (host, port, password)."
        yield Finding("redis", "error", f"does not answer ({type(fault).__name__})", remedy)
        yield from _not_reachable(pending)


def _not_reachable(subjects: list[str] | tuple[str, ...]) -> Iterator[Finding]:
    for subject in subjects:
        yield Finding(subject, "warning", "not reachable without Redis")


def check_redis(client: redis.Redis) -> Iterator[Finding]:
    """Raises redis.RedisError if it does not answer."""
    info: dict[str, Any] = client.info()
    # Valkey states the version of Redis that it is compatible with, and its own.
    version = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"version {info['redis_version']}"
    yield Finding("redis", "ok", f"{version}, {client.dbsize()} keys")
    if info["aof_enabled"]:
        yield _check_append_only_file(client, info)
    else:
        remedy = "Set `appendonly yes` and `appendfsync always` (CONFIG SET, then CONFIG REWRITE)."
        yield Finding("redis persistence", "error", "no append-only file: a restart loses accepted jobs", remedy)
    policy = info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        yield Finding("redis eviction", "ok", "noeviction")
    else:
        remedy = "Set `maxmemory-policy noeviction`: the queue is not a cache."
        yield Finding("redis eviction", "error", f"{policy}: jobs are evicted when the memory is full", remedy)
    if info["maxmemory"] and info["used_memory"] > 0.8 * info["maxmemory"]:
        share = info["used_memory"] / info["maxmemory"]
        remedy = "Raise maxmemory, or lower RETALKING_RETENTION_S."
        yield Finding("redis memory", "warning", f"{share:.0%} of maxmemory is used", remedy)


def _check_append_only_file(client: redis.Redis, info: dict[str, Any]) -> Finding:
    import redis

    subject = "redis persistence"
    if info.get("aof_last_write_status") != "ok":
        return Finding(subject, "error", "the last write to the disk failed", "Look at its disk and its log.")
    try:
        policy = client.config_get("appendfsync").get("appendfsync", "")
    except redis.ResponseError:  # managed servers do not allow CONFIG
        return Finding(subject, "warning", "append-only file; the server does not say how often it is synced")
    if policy == "always":
        return Finding(subject, "ok", "append-only file, synced at every write")
    remedy = "Set `appendfsync always` if no accepted job may be lost in a power failure."
    return Finding(subject, "warning", f"append-only file, synced `{policy}`", remedy)


def check_clock(client: redis.Redis) -> Finding:
    """Against Redis, whose clock gives all times of jobs. Corrected by half of the round trip."""
    before = time.time()
    seconds, micros = client.time()
    offset_s = abs(seconds + micros / 1e6 - (before + time.time()) / 2)
    if offset_s < CLOCK_WARNING_S:
        return Finding("clock", "ok", f"{offset_s * 1000:.0f} ms off Redis")
    state: State = "error" if offset_s >= CLOCK_ERROR_S else "warning"
    remedy = (
        "Run a time service (NTP) here and on the machine of Redis: signatures of webhooks and S3 contain the time."
    )
    return Finding("clock", state, f"{offset_s:.0f} s off Redis", remedy)


def check_keys(settings: Settings, store: JobStore) -> Finding:
    host = urllib.parse.urlsplit(settings.public_url).hostname or ""
    if not settings.require_keys:
        if host.startswith("127.") or host in ("localhost", "::1"):
            return Finding("keys", "ok", "not required, on loopback")
        remedy = "Set RETALKING_REQUIRE_KEYS=true, unless a proxy authenticates callers."
        return Finding("keys", "warning", f"not required, and callers reach {host}", remedy)
    usable = [key for key in store.keys.all() if key.is_valid]
    if not usable:
        remedy = "Run `retalking keys create NAME --scope admin`."
        return Finding("keys", "error", "required, and there is none", remedy)
    return Finding("keys", "ok", f"required; {len(usable)} usable")


def check_workers(settings: Settings, store: JobStore) -> Finding:
    live = store.workers.live()
    if not live:
        return Finding("workers", "error", "no render worker is live", "Start one, or look at the end of its log.")
    oldest = datetime.now(UTC) - timedelta(seconds=settings.worker_ttl_s)
    stuck = [worker for worker in live if not worker.busy_with and worker.polled_at and worker.polled_at < oldest]
    if stuck:
        names = ", ".join(worker.id for worker in stuck)
        return Finding("workers", "error", f"{names}: does not poll for jobs", "Restart it; its log shows the reason.")
    engines = sorted({engine.name for worker in live for engine in worker.engines})
    if preferred_engine(settings.engine, engines) is None:
        offered = ", ".join(engines) or "none"
        found = f"{len(live)} live, and none offers the engine {settings.engine}; offered: {offered}"
        reasons = [worker.unavailable[settings.engine] for worker in live if settings.engine in worker.unavailable]
        return Finding("workers", "error", found, reasons[0] if reasons else "Look at the end of a worker's log.")
    return Finding("workers", "ok", f"{len(live)} live, offering {', '.join(engines)}")


def check_quarantine(store: JobStore) -> Finding:
    """Records that no process could read."""
    total = store.quarantine.size()
    if not total:
        return Finding("records", "ok", "none in quarantine")
    shown = store.quarantine.records(limit=MAX_SHOWN)
    names = ", ".join(f"{record.kind} {record.id} ({record.reason})" for record in shown)
    more = f" and {total - len(shown)} more" if total > len(shown) else ""
    remedy = "Notify their owners; `DELETE /quarantine/KIND/ID` (admin key) deletes a record and its files."
    return Finding("records", "warning", f"{total} in quarantine: {names}{more}", remedy)


def check_janitor(store: JobStore) -> Finding:
    """Items that the janitor could not delete."""
    count = store.janitor_failures.count()
    if not count:
        return Finding("janitor", "ok", "everything due was deleted")
    examples = ", ".join(sorted(store.janitor_failures.items())[:3])
    remedy = "Look for `janitor: an item failed` in the log of the webhook worker, and check the rights of its S3 key."
    return Finding("janitor", "error", f"{count} items cannot be deleted, e.g. {examples}", remedy)


def check_webhooks(store: JobStore) -> Finding:
    backlog = store.webhooks.backlog()
    found = f"{backlog.pending} events pending, {backlog.due} of them due, {backlog.given_up} given up"
    if backlog.due > WEBHOOKS_DUE_WARNING:
        remedy = "Check that a webhook worker runs; `GET /webhooks/deliveries` names the receivers that fail."
        return Finding("webhooks", "warning", found, remedy)
    return Finding("webhooks", "ok", found)


def _open_and_check_objects(settings: Settings) -> Iterator[Finding]:
    from jobs.opening import open_objects

    try:
        yield from check_objects(open_objects(settings))
    except (ObjectStoreError, ValueError) as fault:
        remedy = "Correct RETALKING_S3_ENDPOINT and the other RETALKING_S3_ settings, or the rights of the data folder."
        yield Finding("objects", "error", f"cannot be opened: {fault}", remedy)


def check_objects(objects: ObjectStore) -> Iterator[Finding]:
    """Every right that the service needs, on one small object."""
    key, copy = (f"health/{uuid.uuid4().hex}" for _ in range(2))

    def delete() -> None:
        objects.delete(copy)
        objects.delete(key)

    steps: dict[str, Callable[[], object]] = {
        "write": lambda: _write(objects, key),
        "read": lambda: b"".join(objects.read(key)),
        "list": lambda: list(objects.list_keys("health/")),
        "copy": lambda: objects.copy(key, copy),
        "delete": delete,
    }
    for name, step in steps.items():
        try:
            step()
        except (ObjectStoreError, ObjectNotFoundError) as fault:
            remedy = "Check endpoint, bucket name and keys, and give the key the right to get, put, list and delete."
            yield Finding("objects", "error", f"cannot {name}: {fault}", remedy)
            return
    yield Finding("objects", "ok", f"can {', '.join(steps)}")
    yield from _check_links(objects)


def _write(objects: ObjectStore, key: str) -> None:
    with objects.writer(key, "text/plain") as writer:
        writer.write(b"probe")
        writer.commit()


def _check_links(objects: ObjectStore) -> Iterator[Finding]:
    """Presigned links, by which callers fetch results."""
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
        yield Finding("presigned links", "ok", f"work, served from {host}")
    else:
        remedy = "Set RETALKING_S3_PUBLIC_ENDPOINT to an address at which callers reach the store."
        yield Finding("presigned links", "warning", f"{host} does not serve them to this machine", remedy)


def check_secrets(settings: Settings) -> Iterator[Finding]:
    from jobs.signing import SecretInvalidError, link_secret, webhook_secret

    for name, read in {"link secret": link_secret, "webhook secret": webhook_secret}.items():
        setting = name.replace(" ", "_")
        is_set = bool(getattr(settings, setting).get_secret_value())
        if not is_set and not (settings.data_dir / "secrets" / setting).exists():
            remedy = f"Set RETALKING_{setting.upper()} if API and workers run on several machines."
            yield Finding(name, "warning", "not set: each data folder creates its own at the first start", remedy)
            continue
        try:
            read(settings)
        except SecretInvalidError as fault:
            yield Finding(name, "error", str(fault), "Replace it.")
        else:
            yield Finding(name, "ok", "set" if is_set else "kept in the data folder")


def check_disk(settings: Settings) -> Iterator[Finding]:
    folders = {"data": settings.data_dir, "scratch": settings.work_dir or Path(tempfile.gettempdir())}
    for name, folder in folders.items():
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        found = f"{free / 1024**3:.1f} GiB free for {name}"
        if free > DISK_WARNING_BYTES:
            yield Finding("disk", "ok", found)
        else:
            remedy = "Free some space: a job needs its inputs, its result and as much again."
            yield Finding("disk", "warning", found, remedy)


def check_weights(settings: Settings) -> Finding:
    from retalking_core.errors import WeightsMissingError
    from retalking_core.weights.table import ENGINE_WEIGHTS, WEIGHT_FILES, find_file

    missing = []
    for name in ENGINE_WEIGHTS:
        try:
            find_file(settings.models_dir, WEIGHT_FILES[name])
        except WeightsMissingError:
            missing.append(WEIGHT_FILES[name].file)
    if not missing:
        return Finding("weights", "ok", f"all {len(ENGINE_WEIGHTS)} files are in {settings.models_dir}")
    state: State = "error" if settings.engine == "videoretalking" else "warning"
    found = f"{len(missing)} of {len(ENGINE_WEIGHTS)} files are missing in {settings.models_dir}"
    return Finding("weights", state, found, "Run `retalking weights fetch`; without them only `preview` runs.")


def check_engines(settings: Settings) -> Iterator[Finding]:
    """Every engine that a worker with these settings and packages would look for."""
    from retalking_core.engine_plugins import PluginError, find_plugins
    from worker.engines import NOT_INSTALLED, engine_environment, engine_obstacle

    environment = engine_environment(settings)
    plugins = find_plugins()
    if settings.engine not in {AUTO, *(found.name for found in plugins)}:
        yield Finding(f"engine {settings.engine}", "error", "RETALKING_ENGINE names it", NOT_INSTALLED)
    for found in plugins:
        subject = f"engine {found.name}"
        state: State = "error" if settings.engine == found.name else "warning"
        try:
            obstacle = engine_obstacle(found, environment)
        except PluginError as fault:
            remedy = f"Uninstall {found.distribution}, or tell its authors; other engines work without it."
            yield Finding(subject, "error", f"plug-in of {found.distribution} is broken: {fault}", remedy)
        else:
            yield (
                Finding(subject, state, "cannot run here", obstacle)
                if obstacle
                else Finding(subject, "ok", f"{found.distribution}: can be loaded")
            )


def check_cuda(settings: Settings) -> Iterator[Finding]:
    """The device, and the compiled kernels for it."""
    state: State = "error" if settings.engine == "videoretalking" else "warning"
    try:
        import torch

        from retalking_core.networks.kernels import KernelCache
    except ImportError:
        yield Finding("cuda", state, "torch is not installed", "pip install 'retalking[gpu]' on the worker.")
        return
    if not torch.cuda.is_available():
        remedy = f"Install a driver for CUDA {torch.version.cuda or '-'}; the neural engine needs a device."
        yield Finding("cuda", state, "no device found", remedy)
        return
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    found = ", ".join(f"{each.name} ({each.total_memory / 1024**3:.0f} GiB)" for each in devices)
    yield Finding("cuda", "ok", found)
    if settings.inference != "exact" and settings.kernels != "plain":
        folder = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", settings.data_dir / "compiled"))
        yield check_kernels(settings, KernelCache(folder, torch.device("cuda"), settings.inference_batch))


def check_kernels(settings: Settings, cache: KernelCache) -> Finding:
    """Whether workers find compiled kernels, or can compile them."""
    from retalking_core.errors import KernelsUnfitError
    from retalking_core.networks.kernels import compiled_names, missing_build_tools

    names = compiled_names()
    missing = cache.missing(names)
    found = f"{len(names) - len(missing)} of {len(names)} networks are compiled"
    if not missing:
        return Finding("kernels", "ok", found)
    if settings.kernels_dir is not None:
        try:
            return Finding("kernels", "ok", f"{found}; the bundle {cache.find_bundle(settings.kernels_dir).name} fits")
        except KernelsUnfitError as fault:
            return Finding("kernels", "warning", f"{found}, and no bundle fits", fault.message)
    if obstacle := missing_build_tools():
        remedy = f"{obstacle} Or set RETALKING_KERNELS_DIR to the folder of a bundle (`retalking compile`)."
        return Finding("kernels", "warning", f"{found}, and the others cannot be compiled here", remedy)
    return Finding("kernels", "ok", f"{found}; the others will be, beside the first jobs")
