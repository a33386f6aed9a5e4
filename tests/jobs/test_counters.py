"""Counters of the store for /metrics."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from jobs.models import DeliveryAttempt, ErrorInfo
from jobs.store import Durations, JobStore
from jobs.store.operations import BOUNDS_S
from tests.jobs.making import HOOK, RENDER, add_job, claim, result_of, start_job, succeed


def test_counters_start_empty(job_store: JobStore) -> None:
    add_job(job_store)
    tally = job_store.counters.tally()
    assert tally.counts == tally.durations == {}


def test_outcomes_are_counted_once(job_store: JobStore) -> None:
    succeed(job_store, start_job(job_store))
    lease = start_job(job_store)
    error = ErrorInfo(code="face_not_found", message="No face.")
    for _ in range(2):  # the reply was lost, and the worker repeats the call
        job_store.jobs.fail(lease, error, retention_s=60)
    job_store.jobs.request_cancel(add_job(job_store).id, retention_s=60)
    job_store.jobs.release(start_job(job_store), count_attempt=False)
    counts = job_store.counters.tally().counts
    assert counts["finished"] == {"succeeded": 1, "failed": 1, "canceled": 1}
    assert counts["failed"] == {"face_not_found": 1}
    assert counts["requeued"] == {"released": 1}
    assert sum(counts["face_cache"].values()) == 1


def test_face_cache_hits_and_misses(job_store: JobStore) -> None:
    for found in ("hit", "hit", "miss"):
        lease = start_job(job_store)
        render = RENDER.model_copy(update={"face_cache": found})
        job_store.jobs.succeed(lease, result=result_of(lease), render=render, evaluation=[], retention_s=60)
    assert job_store.counters.tally().counts["face_cache"] == {"hit": 2, "miss": 1}


def test_waits_are_counted_by_priority_at_the_first_start(job_store: JobStore) -> None:
    job = add_job(job_store, priority=2)
    time.sleep(0.15)
    job_store.jobs.release(claim(job_store, job.id), count_attempt=False)
    claim(job_store, job.id)
    claim(job_store, add_job(job_store, priority=0).id)
    waits = job_store.counters.tally().durations["wait"]
    assert set(waits) == {"0", "2"}
    assert total(waits["2"]) == 1
    assert 0.15 <= waits["2"].sum_s < 2
    assert waits["2"].buckets[0] == (0.1, 0)
    assert waits["0"].buckets[-1][1] == 1


def test_stages_and_runs(job_store: JobStore) -> None:
    lease = start_job(job_store)
    for stage, pause_s in (("fetch", 0.12), ("analyze", 0.0), ("analyze", 0.12), ("publish", 0.0)):
        job_store.jobs.report(lease, stage=stage, progress=0.1, lease_s=30)
        time.sleep(pause_s)
    succeed(job_store, lease)
    durations = job_store.counters.tally().durations
    stages = durations["stage"]
    assert {name: total(each) for name, each in stages.items()} == {"fetch": 1, "analyze": 1, "publish": 1}
    assert stages["fetch"].sum_s >= 0.12
    assert stages["analyze"].sum_s >= 0.12
    assert stages["publish"].sum_s < 0.12
    assert durations["run"][""].sum_s >= 0.24
    assert [bound for bound, _ in stages["fetch"].buckets[:-1]] == list(BOUNDS_S)
    seen = [count for _, count in stages["fetch"].buckets]
    assert seen == sorted(seen)


def test_webhook_attempts(job_store: JobStore) -> None:
    job_store.jobs.request_cancel(add_job(job_store, webhook_url=HOOK).id, retention_s=60)
    (delivery,) = job_store.webhooks.due()
    tried = DeliveryAttempt(at=datetime.now(UTC), status_code=500)
    for _ in range(2):  # repeated: the reply was lost
        job_store.webhooks.record_attempt(delivery, tried, state="pending", retry_in_s=1)
    told = DeliveryAttempt(at=datetime.now(UTC), status_code=200)
    job_store.webhooks.record_attempt(delivery, told, state="delivered", retry_in_s=None)
    assert job_store.counters.tally().counts["webhook"] == {"pending": 1, "delivered": 1}


def total(durations: Durations) -> int:
    return durations.buckets[-1][1]
