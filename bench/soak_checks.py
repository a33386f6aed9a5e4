"""The promises of docs/reliability.md, asked of every job that a soak had accepted, and of what lies around."""

from __future__ import annotations

import re
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial

from bench.soak_ledger import Accepted, Ledger, outcome_of
from bench.soak_service import UPLOAD_TTL_S, SoakedService
from jobs.models import Job, JobStatus
from jobs.names import job_prefix
from jobs.store import JobNotFoundError
from tests.faults.outcome import TERMINAL, check_files, check_history, check_nothing_is_left, check_webhook, keys_of
from tests.services import wait_until

# After the last submission: until every job is over, and every healthy receiver has its webhooks.
DRAIN_S = 120.0
# Uploads and files without a job expire, and a round of the janitor removes them.
SWEEP_S = UPLOAD_TTL_S + 30.0
# What the janitor says while Redis or the S3 endpoint is down.
EXPECTED_FAULTS = frozenset({"ConnectionError", "TimeoutError", "BusyLoadingError", "ObjectStoreError"})
_JANITOR_FAULT = re.compile(r'"message": "janitor: (\w+)')


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
        except Exception as fault:  # a record that its own store cannot read is what a hostile submission is after
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


def check_upkeep(service: SoakedService, ledger: Ledger) -> None:
    """Lists can be read to their end, and no step of the janitor failed for a reason that no kill explains."""
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


def _check_job(service: SoakedService, ledger: Ledger, accepted: Accepted, job: Job) -> None:
    expected = None if accepted.is_hostile else service.expected_sha256
    _check(ledger, accepted, partial(check_history, service, job))
    _check(ledger, accepted, partial(check_files, service, job, expected, timeout_s=2.0))
    if not accepted.is_hostile and not accepted.is_deleted:
        _check(ledger, accepted, partial(check_webhook, service, job, "delivered"))


def _check(ledger: Ledger, accepted: Accepted, check: Callable[[], None]) -> None:
    try:
        check()
    except AssertionError as failure:
        # Outside pytest an assertion has no message: its line says what was expected.
        text = str(failure) or traceback.extract_tb(failure.__traceback__)[-1].line or ""
        ledger.violate(f"{accepted.what}: {_promise(failure)}", f"{accepted.job_id}: {text}")


def _promise(failure: AssertionError) -> str:
    """Which of the promises: the name of the check that failed."""
    trace = failure.__traceback__
    names = []
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    return next((name.strip("_").replace("_", " ") for name in names if name.strip("_").startswith("check_")), "check")


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
    keys = set(service.objects.list_keys(""))
    ids = {key.split("/")[1] for key in keys if key.startswith("jobs/")}
    for job_id in ids:
        try:
            job = service.store.jobs.get(job_id)
        except Exception:  # gone: all of it is unreferenced; unreadable: named by check_promises
            continue
        if job.status in (JobStatus.QUEUED, JobStatus.RUNNING):
            keys -= {key for key in keys if key.startswith(job_prefix(job_id))}
        else:
            keys -= keys_of(job)
    return {key for key in keys if not _is_live_upload(service, key)}


def _is_live_upload(service: SoakedService, key: str) -> bool:
    return key.startswith("uploads/") and service.store.uploads.exists(key.split("/")[1])
