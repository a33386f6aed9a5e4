"""Keeping a lease: renewed during work, abandoned after a stall, kept through a short outage of Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from jobs.models import InputRef, JobRequest, JobSpec
from jobs.names import new_job_id
from jobs.store import JobStore, Lease, LeaseLostError
from retalking_core.errors import RenderCanceled
from tests.services import wait_until
from tests.worker.test_runner import Interposed
from worker.faults import retry_redis
from worker.lease import LeaseKeeper, ShutdownRequestedError
from worker.supervision import ShutdownNotice


@dataclass
class Held:
    store: JobStore
    lease: Lease

    def keeper(self, **changes: object) -> LeaseKeeper:
        settings = {"backend": self.store.jobs, "lease_s": 0.3, "stall_s": 30.0, "notice": ShutdownNotice()} | changes
        return LeaseKeeper(lease=self.lease, **settings)  # type: ignore[arg-type]


@pytest.fixture
def held(job_store: JobStore) -> Held:
    job_id = new_job_id()
    ref = InputRef(kind="object", key="jobs/1/input/video")
    job_store.jobs.create(job_id, JobSpec(video=ref, audio=ref, request=JobRequest()), max_attempts=3)
    lease = job_store.jobs.claim(job_id, "w", 0.3)
    assert lease is not None
    return Held(job_store, lease)


def test_the_lease_is_renewed_during_long_work_without_progress(held: Held) -> None:
    with held.keeper() as keeper:
        time.sleep(1.0)
        assert held.store.jobs.requeue_lost() == []
        keeper.check()
    time.sleep(0.4)
    assert [job.id for job in held.store.jobs.requeue_lost()] == [held.lease.job_id]


def test_a_stalled_render_loses_its_lease_and_then_its_process(held: Held) -> None:
    stuck = threading.Event()
    with held.keeper(stall_s=0.5, on_stuck=stuck.set) as keeper, keeper.expecting_progress():
        for number in range(10):
            keeper.beat("synthesize", 0.5, number)
            time.sleep(0.1)
        for _ in range(4):  # the same words again are no progress
            keeper.beat("synthesize", 0.5, 9)
            time.sleep(0.05)
        wait_until(held.store.jobs.requeue_lost, timeout=3)
        with pytest.raises(LeaseLostError):
            keeper.check()
        assert stuck.wait(3)


def test_waiting_that_counts_as_progress_keeps_the_lease(held: Held) -> None:
    stuck = threading.Event()
    with held.keeper(stall_s=0.4, on_stuck=stuck.set) as keeper, keeper.expecting_progress():
        for _ in range(12):
            time.sleep(0.1)
            keeper.count_as_progress()
        keeper.check()
    assert not stuck.is_set()


def test_work_outside_expecting_progress_cannot_stall(held: Held) -> None:
    stuck = threading.Event()
    with held.keeper(stall_s=0.2, on_stuck=stuck.set) as keeper:
        time.sleep(1.0)
        keeper.check()
    assert not stuck.is_set()


def test_a_cancel_is_found_without_progress(held: Held) -> None:
    with held.keeper() as keeper:
        held.store.jobs.request_cancel(held.lease.job_id, retention_s=60)
        time.sleep(0.3)
        with pytest.raises(RenderCanceled):
            keeper.check()


def test_a_lease_taken_by_another_worker_is_lost(held: Held) -> None:
    with held.keeper() as keeper:
        held.store.jobs.release(held.lease, count_attempt=True)
        with pytest.raises(LeaseLostError):
            keeper.beat("synthesize", 0.5)


def test_a_shutdown_notice_stops_the_work_when_it_is_due(held: Held) -> None:
    notice = ShutdownNotice()
    with held.keeper(notice=notice) as keeper:
        notice.give(0.2)
        notice.give(60.0)
        keeper.check()
        with pytest.raises(ShutdownRequestedError):
            keeper.wait(5.0)


def test_a_short_outage_of_redis_keeps_the_lease(held: Held) -> None:
    def away(*_: object, **__: object) -> bool:
        raise RedisConnectionError("away")

    calls: list[int] = []

    def report(*args: object, **named: object) -> bool:
        calls.append(1)
        return away()

    with held.keeper(backend=Interposed(held.store.jobs, renew=away, report=report), lease_s=3.0) as keeper:
        began = time.monotonic()
        for number in range(20):
            keeper.beat(f"stage {number}", 0.5)
        assert time.monotonic() - began < 0.5
    # After a failure the store is left alone for a third of a lease: a dead Redis must not slow the render down.
    assert len(calls) == 1


@pytest.mark.parametrize("failures", [0, 2])
def test_retries_outlast_a_restart_of_redis(failures: int) -> None:
    left = [failures]

    def call() -> str:
        if left[0]:
            left[0] -= 1
            raise RedisConnectionError("away")
        return "answer"

    assert retry_redis(call) == "answer"


def test_retries_end(held: Held) -> None:
    def away() -> Callable[[], None]:
        raise RedisConnectionError("away")

    with pytest.raises(RedisConnectionError):
        retry_redis(away, limit_s=0.5)
