"""The verdict of a soak: the promises of docs/reliability.md for every accepted job, and what must hold around them."""

from __future__ import annotations

import re
import statistics
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import httpx

from bench.soak_callers import API_BROKEN, BUCKET_BROKEN, UNAVAILABLE, Accepted, Ledger, outcome_of
from bench.soak_service import (
    MB,
    RENDER_QUEUES,
    SETTINGS,
    UPLOAD_TTL_S,
    Kill,
    Points,
    SoakedService,
    Watch,
    folder_bytes,
)
from jobs.intake import KEEP_UPLOAD_S
from jobs.models import Job, JobStatus
from jobs.names import job_prefix
from jobs.opening import connect_redis
from jobs.store import JobNotFoundError
from tests.faults.outcome import (
    TERMINAL,
    check_files,
    check_history,
    check_nothing_is_left,
    check_webhook,
    excerpts_of,
    keys_of,
)
from tests.services import wait_until

# After the last submission: until every job is over, and every healthy receiver has its webhooks.
DRAIN_S = 120.0
# Uploads and files without a job expire, and a round of the janitor removes them.
SWEEP_S = UPLOAD_TTL_S + 45.0
# What the janitor logs while Redis or the S3 endpoint is down.
EXPECTED_FAULTS = frozenset({"ConnectionError", "TimeoutError", "BusyLoadingError", "ObjectStoreError"})
_JANITOR_FAULT = re.compile(r'"message": "janitor: (?:an item failed, retrying in \S+ s: )?(\w+)')

# What a killed process explains, and for how many seconds after it serves again. A webhook worker or render process
# that dies explains no failed call. 503: clients of Redis retry for 5 s before they give up.
EXPLAINS = {
    "api": (frozenset({API_BROKEN}), 1.0),
    "redis": (frozenset({UNAVAILABLE}), 5.0),
    "s3": (frozenset({UNAVAILABLE, BUCKET_BROKEN}), 2.0),
}

# Memory of a process is judged from this age on: the first calls of each kind set up threads, clients and caches.
# Measured: the API reaches its level of 146 MB after 300 s, the others after less than 120 s.
WARM_UP_S = {"api": 300.0}
USUAL_WARM_UP_S = 120.0
# Growth that counts as flat, by the slope over all processes of a kind. Redis grows with its data: it is judged by the
# cost of a job, and by what is left after all jobs were deleted. A render child takes a step with the first picture of
# 33 megapixels, and is replaced when it runs out of memory, mostly during its warm-up: tests/faults/test_memory.py
# judges its growth, and the soak its limit. The S3 server is no part of the service, and grows with its bucket.
FLAT_MB_PER_HOUR = {"api": 60.0, "webhooks": 60.0, "render parent": 30.0}
# A process at its level still moves: by 8 MB in 178 s on 16 cores, which a slope makes 155 MB an hour. So growth counts
# from this much on, which the slopes above reach after 16 and 32 minutes.
MOVES_MB = 16.0
# By how much more a job may cost in the last third of the run than in the first: in Redis, and in the bucket.
FLAT_COST = 1.3
# Change of a queue from the second quarter of the run to the third that counts as flat.
FLAT_QUEUE = 10.0
# Redis after everything was deleted, against before the first job.
EMPTY_MARGIN_MB = 1.0
# Kinds of keys that stay in Redis without a job: counters, usage by account and month, a rotated secret, and what
# expires (health of receivers, messages of killed workers).
LASTING_KEYS = frozenset(
    {
        *(
            "counters",
            "usage",
            "seq",
            "webhook_seq",
            "mean_run_ms",
            "webhook_secret",
            "webhook_receiver",
            "fetch_receiver",
        ),
        *("retalking.unacked", "retalking.unacked_index"),
    }
)


@dataclass(frozen=True)
class Trend:
    """Least squares over all processes of a kind, each with its own level. judged_s: the time that was observed after
    warm-up, summed over processes."""

    mb_per_hour: float
    judged_s: float
    median_mb: float


def trend(processes: Iterable[Points], warm_up_s: float) -> Trend | None:
    """None where no process lived long enough after its warm-up."""
    products = squares = judged_s = 0.0
    values: list[float] = []
    for points in processes:
        judged = [(at, mb) for at, mb in points if at >= warm_up_s]
        if len(judged) < 10:
            continue
        mean_at, mean_mb = (statistics.fmean(column) for column in zip(*judged, strict=True))
        products += sum((at - mean_at) * (mb - mean_mb) for at, mb in judged)
        squares += sum((at - mean_at) ** 2 for at, _ in judged)
        judged_s += judged[-1][0] - judged[0][0]
        values += [mb for _, mb in judged]
    return Trend(3600 * products / squares, judged_s, statistics.median(values)) if squares else None


def cost_per_job(points: Points) -> tuple[float, float] | None:
    """MB for each further job, in the first and the last third of the jobs; None where there are too few jobs."""
    most = max((jobs for jobs, _ in points), default=0)
    thirds = [
        [(jobs, mb) for jobs, mb in points if low <= 3 * jobs <= high]
        for low, high in ((0, most), (2 * most, 3 * most))
    ]
    if any(len({jobs for jobs, _ in third}) < 10 for third in thirds):
        return None
    first, last = (statistics.linear_regression(*zip(*third, strict=True)).slope for third in thirds)
    return first, last


def judge_memory(watch: Watch, ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Notes every kind of process that grew. Returns the table of what was measured."""
    rows: dict[str, dict[str, Any]] = {}
    for kind, processes in watch.memory.items():
        found = trend(processes.values(), WARM_UP_S.get(kind, USUAL_WARM_UP_S))
        peak = max((mb for points in processes.values() for _, mb in points), default=0.0)
        rows[kind] = {"processes": len(processes), "peak MB": round(peak)}
        if kind == "render child" and peak * MB > int(SETTINGS["WORKER_MEMORY_BYTES"]):
            ledger.violate("a render child passed its memory limit", f"{peak:.0f} MB")
        if found is None:
            continue
        rows[kind] |= {
            "median MB": round(found.median_mb),
            "judged s": round(found.judged_s),
            "MB/hour": round(found.mb_per_hour),
        }
        limit = FLAT_MB_PER_HOUR.get(kind)
        if limit is not None and found.mb_per_hour > limit and found.mb_per_hour * found.judged_s / 3600 > MOVES_MB:
            ledger.violate(f"memory of the {kind} grew", f"{found.mb_per_hour:.0f} MB an hour, {limit:.0f} allowed")
    for name, points in (("redis data", watch.redis_data), ("bucket", watch.bucket)):
        cost = cost_per_job(points)
        rows[name] = {"peak MB": round(max((mb for _, mb in points), default=0.0), 1)}
        if cost is not None:
            first, last = cost
            rows[name] |= {"kB/job, first third": round(1000 * first, 1), "last third": round(1000 * last, 1)}
            if last > FLAT_COST * first:
                ledger.violate(
                    f"a job costs more in the {name} at the end", f"{1000 * first:.1f}, {1000 * last:.1f} kB"
                )
    return rows


def judge_queues(watch: Watch, ledger: Ledger) -> dict[str, dict[str, float]]:
    """In the middle of the run: medians of the second and the third quarter, which kills do not move."""
    rows = {}
    for name, points in watch.queues.items():
        quarters = [
            [length for at, length in points if number / 4 <= at / watch.length_s < (number + 1) / 4]
            for number in range(4)
        ]
        medians = [statistics.median(quarter) if quarter else 0.0 for quarter in quarters]
        rows[name] = dict(zip(("1st quarter", "2nd", "3rd", "4th"), medians, strict=True))
        rows[name]["peak"] = max((length for _, length in points), default=0.0)
        if medians[2] > medians[1] + FLAT_QUEUE:
            ledger.violate(f"{name} grew in the middle of the run", f"median {medians[1]:.0f}, then {medians[2]:.0f}")
    return rows


def judge_failures(kills: list[Kill], ledger: Ledger) -> int:
    """A failure that no kill explains is a violation. Returns how many a kill explains."""
    count = 0
    for failure in ledger.failures:
        if any(_explains(kill, failure.cause, failure.ended) for kill in kills):
            count += 1
            continue
        near = [
            f"{kill.kind} {failure.ended - kill.began:.1f} s before" for kill in kills if kill.began < failure.ended
        ]
        ledger.violate(
            f"{failure.what}: {failure.cause}, which no kill explains", f"last kill: {(near or ['none'])[-1]}"
        )
    return count


def _explains(kill: Kill, cause: str, ended: float) -> bool:
    causes, aftermath_s = EXPLAINS.get(kill.kind, (frozenset(), 0.0))
    return cause in causes and kill.began <= ended <= kill.back + aftermath_s


def judge_refusals(service: SoakedService, ledger: Ledger) -> int:
    """`quota_exceeded` is right only where the key had as many live jobs as it may have: counted from its jobs, by the
    times of the store. Returns how many were right."""
    lives = {key.id: list(_lives(service, key.headers)) for key in {refusal.key for refusal in ledger.refusals}}
    right = 0
    for refusal in ledger.refusals:
        spans = [
            (begin, end) for begin, end in lives[refusal.key.id] if begin <= refusal.ended and end >= refusal.began
        ]
        moments = [refusal.began, *(begin for begin, _ in spans if begin > refusal.began)]
        most = max(sum(begin <= moment <= end for begin, end in spans) for moment in moments)
        if most >= refusal.key.live_jobs:
            right += 1
        else:
            ledger.violate(f"hostile {refusal.what}: quota_exceeded below the quota", f"{most} live jobs")
    return right


def _lives(service: SoakedService, headers: dict[str, str]) -> Iterable[tuple[float, float]]:
    path = "/jobs?limit=100"
    while path is not None:
        page = service.client.get(path, headers=headers).json()
        for job in page["jobs"]:
            ended = job["finished_at"]
            end = datetime.fromisoformat(ended).timestamp() if ended else float("inf")
            yield datetime.fromisoformat(job["created_at"]).timestamp(), end
        path = page["links"]["next"]


def drain(service: SoakedService, ledger: Ledger) -> None:
    """Wait until every accepted job is over and the webhooks of the well-behaved ones have arrived; bounded."""
    deadline = time.monotonic() + DRAIN_S
    for accepted in list(ledger.accepted):
        while time.monotonic() < deadline and not _is_settled(service, accepted):
            time.sleep(0.1)


def check_promises(service: SoakedService, ledger: Ledger) -> Counter[str]:
    """Notes every violation. Returns how many jobs ended how."""
    ends: Counter[str] = Counter()
    for accepted in ledger.accepted:
        whose = "hostile" if accepted.is_hostile else "well-behaved"
        try:
            job = service.store.jobs.get(accepted.job_id)
        except JobNotFoundError:
            ends[f"{whose} deleted" if accepted.is_deleted else f"{whose} lost"] += 1
            if not accepted.is_deleted:
                ledger.violate("an accepted job is gone", accepted.job_id)
            _check(ledger, accepted, partial(_check_deleted, service, accepted))
            continue
        except Exception as fault:  # a record that its own store cannot read is what a hostile submission aims at
            ends[f"{whose} unreadable"] += 1
            ledger.violate(f"{accepted.what}: its record cannot be read", f"{accepted.job_id}: {fault!r}")
            continue
        end = f"failed {job.error.code}" if job.error else job.status.value
        ends[f"{whose} {end}"] += 1
        if end not in accepted.ends:
            ledger.violate(f"{accepted.what}: ended as {end}", f"{job.id}: {job.error.message if job.error else ''}")
        if job.status.is_over:
            _check_job(service, ledger, accepted, job)
    return ends


def check_leftovers(service: SoakedService, ledger: Ledger) -> None:
    """Waits until all that may still lie in the bucket has expired. Nothing but files of stored jobs is left then."""
    try:
        wait_until(lambda: not _unreferenced(service), SWEEP_S, 2.0, "nothing unreferenced lies in the bucket")
    except AssertionError:
        left = sorted(_unreferenced(service))
        for kind, count in Counter(key.partition("/")[0] for key in left).items():
            ledger.violate(f"{count} objects are left under {kind}/", ", ".join(left[:3]))
    try:
        check_nothing_is_left(service)
    except AssertionError as failure:
        ledger.violate("temporary folders or unfinished uploads are left", str(failure))


def check_upkeep(service: SoakedService, ledger: Ledger, kills: list[Kill]) -> None:
    """Every queue is empty, lists can be read to their end, and the janitor met no fault that no kill explains.

    A render worker that is killed leaves the messages that it held, at most two, until their visibility timeout.
    """
    with connect_redis(service.redis.url) as client:
        lengths = {name: client.llen(name) for name in RENDER_QUEUES}
        unacked = client.hlen("retalking.unacked")
        lines = ("waiting", "outbox", "sent", "leases", "arrivals")
        lengths |= {name: client.zcard(f"{{retalking}}:{name}") for name in lines}
        owners = [key.id for key in service.keys]
        lengths["webhooks"] = sum(client.zcard(f"{{retalking}}:deliveries:pending:{owner}") for owner in owners)
    if unacked > 2 * sum(kill.kind.startswith("render") or kill.kind == "redis" for kill in kills):
        ledger.violate("messages are left unacknowledged", f"{unacked} entries")
    for name, length in lengths.items():
        if length:
            ledger.violate(f"{name} is not empty at the end", f"{length} entries")
    path = "/jobs?limit=100"
    while path is not None:
        answer = service.client.get(path)
        if answer.status_code != 200:
            ledger.violate("a list of jobs cannot be read", outcome_of(answer))
            break
        path = answer.json()["links"]["next"]
    faults = Counter(_JANITOR_FAULT.findall((service.folder / "webhooks.log").read_text(errors="replace")))
    for name, times in faults.items():
        if name not in EXPECTED_FAULTS:
            ledger.violate("the janitor cannot do a step of its round", f"{times} x {name}")


def kinds_of_keys(service: SoakedService) -> tuple[Counter[str], float]:
    """Of Redis now: keys by kind (without ids), and MB of data: not of connections, whose buffers come and go."""
    with connect_redis(service.redis.url) as client:
        names = [name.removeprefix("{retalking}:").partition(":")[0] for name in client.scan_iter(count=1000)]
        return Counter(names), client.info("memory")["used_memory_dataset"] / MB


def check_deletion(service: SoakedService, ledger: Ledger, before: tuple[Counter[str], float]) -> dict[str, Any]:
    """Delete every job: neither Redis nor the bucket keeps anything of them. before: kinds_of_keys before the run."""
    while ids := [job["id"] for job in service.client.get("/jobs?limit=100").json()["jobs"]]:
        for job_id in ids:
            answer = service.client.delete(f"/jobs/{job_id}")
            if answer.status_code not in (204, 404):
                ledger.violate("a job cannot be deleted", outcome_of(answer))
                return {}
    kinds_before, mb_before = before

    def grown() -> dict[str, int]:
        kinds, _ = kinds_of_keys(service)
        return {kind: count for kind, count in kinds.items() if count > kinds_before[kind] and kind not in LASTING_KEYS}

    deadline = time.monotonic() + KEEP_UPLOAD_S + SWEEP_S  # an upload that a job used lives that long
    while grown() and time.monotonic() < deadline:
        time.sleep(1.0)
    for kind, count in grown().items():
        ledger.violate("keys are left in Redis after every job was deleted", f"{count} x {kind}")
    _, mb_after = kinds_of_keys(service)
    if mb_after > mb_before + EMPTY_MARGIN_MB:
        ledger.violate("Redis holds more than before the first job", f"{mb_before:.1f}, then {mb_after:.1f} MB")
    left = list(service.objects.list_keys(""))
    if left:
        ledger.violate("objects are left after every job was deleted", f"{len(left)}: {', '.join(left[:3])}")
    return {
        "redis data MB": {"before": round(mb_before, 2), "after": round(mb_after, 2)},
        "bucket MB": {"after": round(folder_bytes(service.bucket_folder) / MB, 2)},
    }


def webhook_delays_s(service: SoakedService, ledger: Ledger) -> list[float]:
    """Of well-behaved jobs: from the end of the job to the attempt that its receiver took."""
    delays = []
    for accepted in ledger.accepted:
        if accepted.is_hostile or accepted.is_deleted:
            continue
        for delivery in service.store.webhooks.deliveries(accepted.job_id):
            if delivery.state == "delivered" and delivery.attempts and delivery.event in TERMINAL:
                delays.append((delivery.attempts[-1].at - delivery.created_at).total_seconds())
    return delays


def requeue_delays_s(service: SoakedService, kills: list[Kill]) -> list[float]:
    """From the death of a render child at work to the moment at which its job was queued again."""
    delays = []
    for kill in kills:
        try:
            events = service.store.jobs.events(kill.job_id, after=None) if kill.job_id else []
        except JobNotFoundError:
            continue
        after = [event.at.timestamp() - kill.at for event in events if event.event == "job.requeued"]
        delays += [delay for delay in after if delay > 0][:1]
    return delays


def _check_job(service: SoakedService, ledger: Ledger, accepted: Accepted, job: Job) -> None:
    expected = None if accepted.is_hostile else service.expected_sha256
    _check(ledger, accepted, partial(check_history, service, job))
    _check(ledger, accepted, partial(check_files, service, job, expected, timeout_s=2.0))
    if not accepted.is_hostile and not accepted.is_deleted:
        _check(ledger, accepted, partial(check_webhook, service, job, "delivered"))


def _check(ledger: Ledger, accepted: Accepted, check: Callable[[], None]) -> None:
    try:
        check()
    except (AssertionError, httpx.HTTPError) as failure:
        # Outside pytest an assertion has no message: its line says what was expected.
        text = str(failure) or traceback.extract_tb(failure.__traceback__)[-1].line or ""
        ledger.violate(f"{accepted.what}: {_promise(failure)}", f"{accepted.job_id}: {text}")


def _promise(failure: Exception) -> str:
    """Which of the promises: the name of the check that failed."""
    names = [frame.name.strip("_") for frame in traceback.extract_tb(failure.__traceback__)]
    return next((name.replace("_", " ") for name in names if name.startswith("check_")), "check")


def _check_deleted(service: SoakedService, accepted: Accepted) -> None:
    left = list(service.objects.list_keys(job_prefix(accepted.job_id)))
    assert not left, f"objects of a deleted job: {left}"


def _is_settled(service: SoakedService, accepted: Accepted) -> bool:
    try:
        if not service.store.jobs.get(accepted.job_id).status.is_over:
            return False
    except Exception:  # gone, or unreadable: check_promises names it
        return True
    is_watched = not accepted.is_hostile and not accepted.is_deleted
    return not is_watched or all(each.state != "pending" for each in service.store.webhooks.deliveries(accepted.job_id))


def _unreferenced(service: SoakedService) -> set[str]:
    by_job: dict[str, set[str]] = defaultdict(set)
    left = set()
    for key in service.objects.list_keys(""):
        kind, _, rest = key.partition("/")
        if kind == "jobs":
            by_job[rest.partition("/")[0]].add(key)
        elif not (kind == "uploads" and service.store.uploads.exists(rest)):
            left.add(key)
    for job_id, keys in by_job.items():
        try:
            job = service.store.jobs.get(job_id)
        except Exception:  # gone: all of it is unreferenced; unreadable: named by check_promises
            left |= keys
            continue
        left |= set() if job.status in (JobStatus.QUEUED, JobStatus.RUNNING) else keys - keys_of(job) - excerpts_of(job)
    return left
