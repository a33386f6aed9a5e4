"""Listing, queues, the janitor's rounds, events, uploads, workers and locks."""

from __future__ import annotations

import itertools
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
import redis

from jobs.models import JobStatus
from jobs.names import new_job_id, new_upload_id
from jobs.store import JobNotFoundError, JobStore, QueueEstimate, RecordUnreadableError
from tests.jobs.making import RETENTION_S, add_job, claim, spec_of, start_job, succeed, worker_info
from tests.services import free_port


def test_listing_is_newest_first_and_stable_while_jobs_come_and_go(job_store: JobStore) -> None:
    ids = [add_job(job_store).id for _ in range(7)]
    page = job_store.jobs.page(status=None, cursor=None, limit=3)
    assert [job.id for job in page.jobs] == ids[:3:-1]
    add_job(job_store)
    job_store.jobs.request_cancel(ids[4], retention_s=1)
    job_store.jobs.delete(ids[4])
    second = job_store.jobs.page(status=None, cursor=page.next_cursor, limit=3)
    assert [job.id for job in second.jobs] == [ids[3], ids[2], ids[1]]
    last = job_store.jobs.page(status=None, cursor=second.next_cursor, limit=3)
    assert ([job.id for job in last.jobs], last.next_cursor) == ([ids[0]], None)


def test_listing_by_status(job_store: JobStore) -> None:
    waiting, leases = [add_job(job_store).id for _ in range(3)], [start_job(job_store) for _ in range(2)]
    done = succeed(job_store, leases[0]).id

    def listed(status: JobStatus) -> list[str]:
        return [job.id for job in job_store.jobs.page(status=status, cursor=None, limit=10).jobs]

    assert listed(JobStatus.QUEUED) == waiting[::-1]
    assert listed(JobStatus.RUNNING) == [leases[1].job_id]
    assert listed(JobStatus.SUCCEEDED) == [done]
    assert listed(JobStatus.FAILED) == []
    assert job_store.jobs.count_by_status() == {
        JobStatus.QUEUED: 3,
        JobStatus.RUNNING: 1,
        JobStatus.SUCCEEDED: 1,
        JobStatus.FAILED: 0,
        JobStatus.CANCELED: 0,
    }
    page = job_store.jobs.page(status=JobStatus.QUEUED, cursor=None, limit=3)
    assert page.next_cursor is None


@pytest.mark.parametrize("cursor", ["", "5", "c", "c-1", "c1e5", "c1)", "c" + "9" * 30, "x5", "c5\n"])
def test_an_invalid_cursor_is_refused(job_store: JobStore, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        job_store.jobs.page(status=None, cursor=cursor, limit=3)


@pytest.mark.parametrize("limit", [0, -1, 201])
def test_a_page_is_bounded(job_store: JobStore, limit: int) -> None:
    with pytest.raises(ValueError, match="limit"):
        job_store.jobs.page(status=None, cursor=None, limit=limit)


def test_positions_follow_priority_then_age(job_store: JobStore) -> None:
    low, middle, high, high_later = (add_job(job_store, priority=priority).id for priority in (0, 1, 2, 2))
    assert [job_store.jobs.queue_position(job_id) for job_id in (high, high_later, middle, low)] == [1, 2, 3, 4]
    assert job_store.jobs.queue_depths() == {0: 1, 1: 1, 2: 2}
    lease = claim(job_store, high)
    assert [job_store.jobs.queue_position(job_id) for job_id in (high, high_later, middle, low)] == [None, 1, 2, 3]
    job_store.jobs.release(lease, count_attempt=False)
    assert job_store.jobs.queue_position(high) == 1


def test_a_poll_reads_job_and_queue_in_one_round_trip(job_store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = add_job(job_store), add_job(job_store)
    job_store.workers.report(worker_info("w"), ttl_s=60)
    job_store.jobs.get_with_estimate(first.id)  # loads the script
    trips = []
    send = redis.Connection.send_packed_command
    monkeypatch.setattr(
        redis.Connection, "send_packed_command", lambda *args, **more: [trips.append(1), send(*args, **more)]
    )
    job, estimate = job_store.jobs.get_with_estimate(second.id)
    assert len(trips) == 1
    assert (job, estimate) == (second, QueueEstimate(2, None, 1))
    assert job_store.jobs.queue_estimates([second.id, first.id, new_job_id()]) == [
        QueueEstimate(2, None, 1),
        QueueEstimate(1, None, 1),
        QueueEstimate(None, None, 1),
    ]
    claim(job_store, first.id)
    assert job_store.jobs.get_with_estimate(first.id)[1] == QueueEstimate(None, None, 1)
    with pytest.raises(JobNotFoundError):
        job_store.jobs.get_with_estimate(new_job_id())


def test_a_poll_sets_a_broken_record_aside(job_store: JobStore, redis_client: redis.Redis) -> None:
    broken, text = add_job(job_store).id, add_job(job_store).id
    redis_client.hset(job_store.redis.key("job", broken), "spec", "{")
    redis_client.set(job_store.redis.key("job", text), "no hash")
    for job_id in (broken, text):
        with pytest.raises(RecordUnreadableError):
            job_store.jobs.get_with_estimate(job_id)


def test_the_outbox_empties_as_messages_go_out(job_store: JobStore) -> None:
    first = add_job(job_store).id
    time.sleep(0.002)  # the outbox has a resolution of 1 ms
    second = add_job(job_store).id
    assert [job.id for job in job_store.jobs.unsent(0)] == [first, second]
    assert [job.id for job in job_store.jobs.unsent(0, limit=1)] == [first]
    assert job_store.jobs.unsent(60) == []
    job_store.jobs.mark_message_sent(first)
    assert [job.id for job in job_store.jobs.unsent(0)] == [second]
    claim(job_store, second)
    assert job_store.jobs.unsent(0) == []


def test_stranded_jobs_are_those_sent_but_not_claimed(job_store: JobStore) -> None:
    job = add_job(job_store)
    assert job_store.jobs.stranded(1, 0) == []
    job_store.jobs.mark_message_sent(job.id)
    assert [row.id for row in job_store.jobs.stranded(1, 0)] == [job.id]
    assert job_store.jobs.stranded(1, 60) == []
    assert job_store.jobs.stranded(0, 0) == job_store.jobs.stranded(2, 0) == []
    claim(job_store, job.id)
    assert job_store.jobs.stranded(1, 0) == []
    job_store.jobs.mark_message_sent(job.id)  # a janitor that was late
    assert job_store.jobs.stranded(1, 0) == []


def test_jobs_of_lost_workers_are_requeued_until_attempts_are_used_up(job_store: JobStore) -> None:
    job = add_job(job_store, max_attempts=2)
    for attempt, status in ((1, JobStatus.QUEUED), (2, JobStatus.FAILED)):
        claim(job_store, job.id, lease_s=0.01)
        assert [row.attempt for row in wait_for_lost(job_store)] == [attempt]
        assert job_store.jobs.get(job.id).status is status
    over = job_store.jobs.get(job.id)
    assert (over.error.code, over.delete_at is not None) == ("worker_lost", True)
    assert job_store.jobs.requeue_lost() == []
    names = [event.event for event in job_store.jobs.events(job.id, after=None)]
    assert names == ["job.queued", "job.started", "job.requeued", "job.started", "job.failed"]


def wait_for_lost(store: JobStore) -> list:
    time.sleep(0.03)
    return store.jobs.requeue_lost()


def test_a_renewed_lease_is_not_lost(job_store: JobStore) -> None:
    """Each renewal outlasts the lease before it; no call has to come within a certain time."""
    lease = start_job(job_store, lease_s=0.02)
    for _ in range(3):
        job_store.jobs.renew(lease, 30)
        time.sleep(0.03)
        assert job_store.jobs.requeue_lost() == []
        job_store.jobs.renew(lease, 0.02)
    time.sleep(0.03)
    job_store.jobs.report(
        lease, stage="fetch", progress=0.1, lease_s=30
    )  # expired, but no other worker took the job over
    assert job_store.jobs.requeue_lost() == []


def test_jobs_renewed_or_claimed_after_the_janitor_listed_them_are_left_alone(
    job_store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The janitor lists jobs, then acts on each: here the list is out of date."""
    renewed, started = start_job(job_store), start_job(job_store, expires_in_s=100)
    waiting = add_job(job_store, expires_in_s=100)
    listed = [renewed.job_id, started.job_id, waiting.id]
    monkeypatch.setattr(job_store.redis, "due", lambda line, limit: listed)
    assert job_store.jobs.requeue_lost() == []
    assert job_store.jobs.fail_past_deadline(RETENTION_S) == []
    assert [job_store.jobs.get(job_id).status for job_id in listed] == ["running", "running", "queued"]


def test_a_lost_job_that_was_canceled_is_canceled(job_store: JobStore) -> None:
    lease = start_job(job_store, lease_s=0.01)
    job_store.jobs.request_cancel(lease.job_id, retention_s=RETENTION_S)
    assert [job.status for job in wait_for_lost(job_store)] == [JobStatus.CANCELED]


def test_rounds_are_bounded(job_store: JobStore) -> None:
    for _ in range(5):
        start_job(job_store, lease_s=0.01)
    time.sleep(0.03)
    assert [len(job_store.jobs.requeue_lost(limit=2)) for _ in range(4)] == [2, 2, 1, 0]


def test_a_deadline_fails_only_what_never_started(job_store: JobStore) -> None:
    waiting, started = add_job(job_store, expires_in_s=1), start_job(job_store, expires_in_s=1)
    claimed_late = add_job(job_store, expires_in_s=1)
    assert (waiting.deadline_at - waiting.created_at).total_seconds() == 1
    assert job_store.jobs.fail_past_deadline(RETENTION_S) == []
    time.sleep(1.05)
    assert job_store.jobs.claim(claimed_late.id, "w1", 30) is None
    assert job_store.jobs.get(claimed_late.id).error.code == "deadline_exceeded"
    failed = job_store.jobs.fail_past_deadline(RETENTION_S)
    assert [(job.id, job.status, job.error.code) for job in failed] == [
        (waiting.id, JobStatus.FAILED, "deadline_exceeded")
    ]
    job_store.jobs.release(started, count_attempt=False)
    assert job_store.jobs.fail_past_deadline(RETENTION_S) == []
    assert job_store.jobs.claim(started.job_id, "w1", 30) is not None


def test_jobs_are_due_for_deletion_after_their_retention(job_store: JobStore) -> None:
    kept, gone = succeed(job_store, start_job(job_store)), succeed(job_store, start_job(job_store), retention_s=0)
    assert job_store.jobs.due_for_deletion() == [gone.id]
    job_store.jobs.delete(gone.id)
    assert job_store.jobs.due_for_deletion() == []
    assert job_store.jobs.get(kept.id) == kept


def test_events_are_replayed_after_an_id_and_waited_for(job_store: JobStore) -> None:
    lease = start_job(job_store)
    queued, started = job_store.jobs.events(lease.job_id, after=None)
    assert (queued.event, queued.status, started.detail) == ("job.queued", JobStatus.QUEUED, {"attempt": 1})
    assert job_store.jobs.events(lease.job_id, after=queued.id) == [started]
    assert job_store.jobs.events(lease.job_id, after=started.id) == []

    begun = time.monotonic()
    assert job_store.jobs.events(lease.job_id, after=started.id, block_ms=100) == []
    assert 0.09 < time.monotonic() - begun < 2

    later = threading.Timer(0.1, lambda: job_store.jobs.report(lease, stage="fetch", progress=0.1, lease_s=30))
    later.start()
    (progress,) = job_store.jobs.events(lease.job_id, after=started.id, block_ms=3000)
    later.join()
    assert (progress.event, progress.stage, progress.progress) == ("job.progress", "fetch", 0.1)
    for odd in ("", "nonsense", "1-2-3", "9" * 40, "0-0; FLUSHALL"):
        assert len(job_store.jobs.events(lease.job_id, after=odd)) == 3


def test_waiting_for_events_never_outlives_the_socket(redis_url: str, job_store: JobStore) -> None:
    job = add_job(job_store)
    with redis.Redis.from_url(redis_url, decode_responses=True, socket_timeout=0.6) as client:
        store = JobStore(client, job_store.redis.prefix)
        begun = time.monotonic()
        last = store.jobs.events(job.id, after=None)[-1].id
        assert store.jobs.events(job.id, after=last, block_ms=60_000) == []
        assert time.monotonic() - begun < 0.55


def test_a_long_job_keeps_a_bounded_history_with_its_start_and_end(job_store: JobStore) -> None:
    """Many reports per percent, then a worker that keeps changing its stage: more than 1000 potential events."""
    lease = start_job(job_store)
    for i in range(1500):
        stage = "synthesize" if i < 400 else f"odd-{i}"
        job_store.jobs.report(lease, stage=stage, progress=i / 1500, lease_s=30)
    succeed(job_store, lease)
    events = []
    while page := job_store.jobs.events(lease.job_id, after=events[-1].id if events else None):
        events += page
    names = [event.event for event in events]
    assert names[:2] == ["job.queued", "job.started"]
    assert names[-1] == "job.succeeded"
    assert names.count("job.progress") == 1000
    steps = [event.progress for event in events if event.stage == "synthesize"]
    assert len(steps) <= 28
    assert max(after - before for before, after in itertools.pairwise(steps)) < 0.011


def test_arrivals_belong_to_their_job_or_expire(job_store: JobStore) -> None:
    made, abandoned, late = new_job_id(), new_job_id(), new_job_id()
    for job_id, within_s in ((made, -1), (abandoned, -1), (late, 60)):
        job_store.uploads.add_arrival(job_id, within_s)
    job_store.jobs.create(made, spec_of(), max_attempts=3)
    assert job_store.uploads.expired_arrivals() == [abandoned]
    job_store.uploads.drop_arrival(abandoned)
    assert job_store.uploads.expired_arrivals() == []


def test_uploads_expire_unless_a_job_takes_them(job_store: JobStore) -> None:
    waiting, expired, taken = (new_upload_id() for _ in range(3))
    now = datetime.now(UTC)
    job_store.uploads.add(waiting, now + timedelta(hours=1))
    job_store.uploads.add(expired, now - timedelta(seconds=1))
    job_store.uploads.add(taken, now - timedelta(seconds=2))
    job_store.uploads.take(taken)
    job_store.uploads.take(new_upload_id())
    assert [job_store.uploads.exists(upload) for upload in (waiting, expired, taken)] == [True] * 3
    assert job_store.uploads.expired() == [expired]
    job_store.uploads.drop(expired)
    assert job_store.uploads.expired() == []
    assert not job_store.uploads.exists(expired)
    assert not job_store.uploads.exists(new_upload_id())


def test_workers_are_known_while_they_report(job_store: JobStore) -> None:
    job_store.workers.report(worker_info("w2"), 30)
    job_store.workers.report(worker_info("w1"), 30)
    job_store.workers.report(worker_info("brief"), 0.05)
    time.sleep(0.08)
    assert [worker.id for worker in job_store.workers.live()] == ["w1", "w2"]
    job_store.workers.forget("w1")
    job_store.workers.forget("never was")
    assert [worker.id for worker in job_store.workers.live()] == ["w2"]


def test_a_lock_has_one_owner_at_a_time(job_store: JobStore) -> None:
    assert job_store.locks.acquire("janitor", "a", 1.0)
    assert job_store.locks.acquire("janitor", "a", 1.0)
    assert not job_store.locks.acquire("janitor", "b", 1.0)
    assert job_store.locks.acquire("other", "b", 1.0)
    time.sleep(1.05)
    assert job_store.locks.acquire("janitor", "b", 1.0)


def test_a_released_lock_is_free_at_once_and_only_its_owner_releases_it(job_store: JobStore) -> None:
    assert job_store.locks.acquire("cache", "a", 30.0)
    job_store.locks.release("cache", "b")
    assert not job_store.locks.acquire("cache", "b", 30.0)
    job_store.locks.release("cache", "a")
    job_store.locks.release("cache", "a")
    assert job_store.locks.acquire("cache", "b", 30.0)


def test_ping_raises_if_redis_is_unreachable(job_store: JobStore) -> None:
    job_store.ping()
    nobody = redis.Redis(port=free_port(), decode_responses=True, retry=None)
    with pytest.raises(redis.ConnectionError):
        JobStore(nobody).ping()
