"""Races between calls, with real threads on a real Redis."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cli.stack.redis_server import EmbeddedRedis
from jobs.models import JobStatus
from jobs.names import new_job_id
from jobs.opening import connect_redis
from jobs.store import IdempotencyConflictError, IdempotencyKey, JobStore, LeaseLostError, WrongStateError
from tests.jobs.making import EVERY_EVENT, HOOK, RETENTION_S, add_job, claim, spec_of, start_job, succeed

TERMINAL = {"job.succeeded", "job.failed", "job.canceled"}


def race(*calls: Callable[[], object]) -> list[object]:
    """Run all calls at the same time; returns the value or the exception of each."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        start.wait()
        try:
            return call()
        except (LeaseLostError, WrongStateError, IdempotencyConflictError) as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def terminal_events(store: JobStore, job_id: str) -> list[str]:
    return [event.event for event in store.jobs.events(job_id, after=None) if event.event in TERMINAL]


def test_fifty_creates_with_one_key_make_one_job(job_store: JobStore) -> None:
    key = IdempotencyKey("order-1", "same", 60)

    def create() -> object:
        return job_store.jobs.create(new_job_id(), spec_of(), max_attempts=3, idempotency=key)

    made = race(*[create] * 50)
    assert Counter(result.is_new for result in made) == {True: 1, False: 49}
    assert len({result.job.id for result in made}) == 1
    assert job_store.jobs.count_by_status()[JobStatus.QUEUED] == 1
    assert job_store.jobs.queue_depths()[1] == 1


def test_cancel_against_success_two_hundred_times(job_store: JobStore) -> None:
    """The first call wins; there is one terminal state, one terminal event, one terminal delivery."""
    outcomes: Counter[JobStatus] = Counter()
    for _ in range(200):
        lease = start_job(job_store, webhook_url=HOOK, webhook_events=EVERY_EVENT)

        def finish(lease=lease) -> object:
            try:
                return succeed(job_store, lease)
            except WrongStateError:
                return job_store.jobs.cancel(lease, retention_s=RETENTION_S)

        race(finish, lambda lease=lease: job_store.jobs.request_cancel(lease.job_id, retention_s=RETENTION_S))
        job = job_store.jobs.get(lease.job_id)
        outcomes[job.status] += 1
        assert terminal_events(job_store, job.id) == [f"job.{job.status.value}"]
        told = [delivery.event for delivery in job_store.webhooks.deliveries(job.id) if delivery.event in TERMINAL]
        assert told == [f"job.{job.status.value}"]
        assert (job.result is None) == (job.status is JobStatus.CANCELED)
    assert set(outcomes) <= {JobStatus.SUCCEEDED, JobStatus.CANCELED}
    assert sum(outcomes.values()) == 200


def test_one_message_claimed_at_once_gives_one_lease(job_store: JobStore) -> None:
    for _ in range(20):
        job = add_job(job_store)
        leases = race(*[lambda job=job, name=f"w{i}": job_store.jobs.claim(job.id, name, 30) for i in range(3)])
        assert [lease is None for lease in leases].count(False) == 1
        assert job_store.jobs.get(job.id).attempt == 1


def test_a_late_writer_against_its_successor(job_store: JobStore) -> None:
    for _ in range(20):
        old = start_job(job_store, lease_s=0.001)
        time.sleep(0.003)
        assert len(job_store.jobs.requeue_lost()) == 1
        new = claim(job_store, old.job_id, "w2")
        late, fresh = race(lambda old=old: succeed(job_store, old), lambda new=new: succeed(job_store, new))
        assert isinstance(late, LeaseLostError)
        assert fresh.result.key.endswith("attempt-2.mp4")
        assert terminal_events(job_store, old.job_id) == ["job.succeeded"]


def test_janitor_against_a_worker_that_finishes_late(job_store: JobStore) -> None:
    """The lease expired, and the worker finishes while the janitor requeues the job: one of them wins."""
    for _ in range(50):
        lease = start_job(job_store, lease_s=0.001)
        time.sleep(0.003)
        finished, lost = race(lambda lease=lease: succeed(job_store, lease), job_store.jobs.requeue_lost)
        status = job_store.jobs.get(lease.job_id).status
        if isinstance(finished, LeaseLostError):
            assert (status, len(lost)) == (JobStatus.QUEUED, 1)
            job_store.jobs.request_cancel(lease.job_id, retention_s=1)
        else:
            assert (status, lost) == (JobStatus.SUCCEEDED, [])


def test_two_janitors_requeue_a_job_once(job_store: JobStore) -> None:
    for _ in range(20):
        lease = start_job(job_store, lease_s=0.001)
        time.sleep(0.003)
        first, second = race(job_store.jobs.requeue_lost, job_store.jobs.requeue_lost)
        assert len(first) + len(second) == 1
        names = [event.event for event in job_store.jobs.events(lease.job_id, after=None)]
        assert names.count("job.requeued") == 1
        job_store.jobs.request_cancel(lease.job_id, retention_s=1)


def test_a_restart_of_redis_keeps_jobs_and_the_client_recovers(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server:
        port = server.port
        store = JobStore(connect_redis(server.url))
        first, second = add_job(store, priority=0), add_job(store, priority=2)
        lease = claim(store, first.id)
        store.jobs.report(lease, stage="fetch", progress=0.3, lease_s=30)
    with EmbeddedRedis(tmp_path, port=port) as server:
        store = JobStore(connect_redis(server.url))
        assert store.jobs.get(second.id) == second
        assert store.jobs.queue_position(second.id) == 1
        assert [job.id for job in store.jobs.unsent(0)] == [second.id]
        assert store.jobs.get(first.id).progress == 0.3
        assert succeed(store, lease).status is JobStatus.SUCCEEDED
        assert store.jobs.create(new_job_id(), spec_of(), max_attempts=3).is_new
