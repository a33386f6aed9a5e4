"""Life cycle of a job, on a real Redis."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
import redis

from jobs.models import DeliveryAttempt, ErrorInfo, JobStatus
from jobs.names import new_job_id
from jobs.store import (
    IdempotencyConflictError,
    IdempotencyKey,
    JobNotFoundError,
    JobStore,
    LeaseLostError,
    WrongStateError,
)
from tests.jobs.making import (
    EVALUATION,
    EVERY_EVENT,
    HOOK,
    RENDER,
    RETENTION_S,
    add_job,
    claim,
    result_of,
    spec_of,
    start_job,
    succeed,
)

FAULT = ErrorInfo(code="face_not_found", message="No face.")


def events_of(store: JobStore, job_id: str) -> list[str]:
    return [event.event for event in store.jobs.events(job_id, after=None)]


def test_a_job_from_queue_to_success(job_store: JobStore) -> None:
    job = add_job(job_store, metadata={"order": [1, {"ä": None}]}, priority=2)
    assert (job.status, job.attempt, job.progress, job.stage) == (JobStatus.QUEUED, 0, 0.0, None)
    assert abs((datetime.now(UTC) - job.created_at).total_seconds()) < 5
    assert job_store.jobs.get(job.id) == job
    assert job_store.jobs.queue_position(job.id) == 1

    lease = claim(job_store, job.id)
    running = job_store.jobs.get(job.id)
    assert (running.status, running.attempt, running.worker) == (JobStatus.RUNNING, 1, "w1")
    assert running.started_at >= job.created_at
    assert job_store.jobs.queue_position(job.id) is None

    assert job_store.jobs.report(lease, stage="analyze", progress=0.25, lease_s=30) is False
    assert (job_store.jobs.get(job.id).stage, job_store.jobs.get(job.id).progress) == ("analyze", 0.25)

    done = succeed(job_store, lease)
    assert done == job_store.jobs.get(job.id)
    assert (done.status, done.progress, done.stage, done.error) == (JobStatus.SUCCEEDED, 1.0, None, None)
    assert (done.result, done.render, done.evaluation) == (result_of(lease), RENDER, EVALUATION)
    assert done.spec == job.spec
    assert (done.delete_at - done.finished_at).total_seconds() == RETENTION_S
    assert events_of(job_store, job.id) == ["job.queued", "job.started", "job.progress", "job.succeeded"]


def test_progress_never_decreases(job_store: JobStore) -> None:
    lease = start_job(job_store)
    for progress, kept in ((0.5, 0.5), (0.3, 0.5), (0.7, 0.7), (0.0, 0.7), (1.0, 1.0)):
        job_store.jobs.report(lease, stage="synthesize", progress=progress, lease_s=30)
        assert job_store.jobs.get(lease.job_id).progress == kept
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="progress"):
            job_store.jobs.report(lease, stage="synthesize", progress=wrong, lease_s=30)


def test_a_failure_stores_its_error(job_store: JobStore) -> None:
    lease = start_job(job_store)
    job = job_store.jobs.fail(lease, FAULT, retention_s=RETENTION_S)
    assert (job.status, job.error) == (JobStatus.FAILED, FAULT)
    last = job_store.jobs.events(job.id, after=None)[-1]
    assert (last.event, last.detail) == ("job.failed", {"code": "face_not_found", "message": "No face."})


def test_a_terminal_state_is_final(job_store: JobStore) -> None:
    lease = start_job(job_store)
    done = succeed(job_store, lease)
    for late in (
        lambda: job_store.jobs.fail(lease, FAULT, retention_s=1),
        lambda: job_store.jobs.cancel(lease, retention_s=1),
        lambda: job_store.jobs.release(lease, count_attempt=True),
        lambda: job_store.jobs.report(lease, stage="publish", progress=1.0, lease_s=30),
        lambda: job_store.jobs.renew(lease, 30),
    ):
        with pytest.raises(LeaseLostError):
            late()
    assert job_store.jobs.claim(lease.job_id, "w2", 30) is None
    assert job_store.jobs.request_cancel(lease.job_id, retention_s=1) == done == job_store.jobs.get(lease.job_id)


def test_calls_repeated_after_a_lost_reply_change_nothing(job_store: JobStore) -> None:
    job_id, spec = new_job_id(), spec_of()
    first = job_store.jobs.create(job_id, spec, max_attempts=3)
    assert job_store.jobs.create(job_id, spec, max_attempts=3) == first
    with pytest.raises(WrongStateError):
        job_store.jobs.create(job_id, spec_of(seed=5), max_attempts=3)

    lease = claim(job_store, job_id)
    released = job_store.jobs.release(lease, count_attempt=False)
    assert job_store.jobs.release(lease, count_attempt=False) == released

    lease = claim(job_store, job_id)
    assert succeed(job_store, lease) == succeed(job_store, lease)
    assert job_store.jobs.count_by_status()[JobStatus.SUCCEEDED] == 1

    lease = start_job(job_store)
    assert job_store.jobs.fail(lease, FAULT, retention_s=1) == job_store.jobs.fail(lease, FAULT, retention_s=1)
    assert events_of(job_store, lease.job_id).count("job.failed") == 1


def test_a_claim_repeated_by_the_client_finds_its_own_lease(
    job_store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py repeats a command if the connection breaks before the reply: the same token arrives twice."""
    job = add_job(job_store)
    monkeypatch.setattr("jobs.store.jobs.secrets.token_hex", lambda size: "the-same-call")
    first, again = claim(job_store, job.id), claim(job_store, job.id)
    assert first == again
    assert job_store.jobs.get(job.id).attempt == 1


def test_an_old_lease_loses_to_a_newer_one(job_store: JobStore) -> None:
    old = start_job(job_store, lease_s=0.01)
    time.sleep(0.03)
    assert [job.id for job in job_store.jobs.requeue_lost()] == [old.job_id]
    new = claim(job_store, old.job_id, "w2")
    assert (new.fence, new.attempt) == (old.fence + 1, 2)
    for late in (lambda: succeed(job_store, old), lambda: job_store.jobs.renew(old, 30)):
        with pytest.raises(LeaseLostError):
            late()
    assert job_store.jobs.get(old.job_id).status is JobStatus.RUNNING
    assert succeed(job_store, new).result.key.endswith("attempt-2.mp4")
    with pytest.raises(LeaseLostError):
        succeed(job_store, old)


def test_an_old_lease_of_the_same_worker_is_refused_too(job_store: JobStore) -> None:
    old = start_job(job_store, lease_s=0.01)
    time.sleep(0.03)
    job_store.jobs.requeue_lost()
    claim(job_store, old.job_id)
    with pytest.raises(LeaseLostError):
        succeed(job_store, old)
    with pytest.raises(LeaseLostError):
        job_store.jobs.renew(old, 30)
    assert job_store.jobs.get(old.job_id).status is JobStatus.RUNNING


def test_the_same_fence_from_another_worker_is_refused(job_store: JobStore) -> None:
    lease = start_job(job_store)
    forged = type(lease)(lease.job_id, "w9", lease.fence, lease.attempt)
    with pytest.raises(LeaseLostError):
        succeed(job_store, forged)


def test_a_queued_job_is_canceled_at_once(job_store: JobStore) -> None:
    job = add_job(job_store, expires_in_s=100)
    canceled = job_store.jobs.request_cancel(job.id, retention_s=RETENTION_S)
    assert (canceled.status, canceled.cancel_requested) == (JobStatus.CANCELED, True)
    assert job_store.jobs.claim(job.id, "w1", 30) is None
    assert job_store.jobs.unsent(0) == []
    assert job_store.jobs.queue_position(job.id) is None
    assert job_store.jobs.request_cancel(job.id, retention_s=5) == canceled


def test_a_requested_cancellation_of_a_running_job_wins_over_success(job_store: JobStore) -> None:
    lease = start_job(job_store)
    flagged = job_store.jobs.request_cancel(lease.job_id, retention_s=RETENTION_S)
    assert (flagged.status, flagged.cancel_requested) == (JobStatus.RUNNING, True)
    assert job_store.jobs.report(lease, stage="synthesize", progress=0.5, lease_s=30) is True
    assert job_store.jobs.renew(lease, 30) is True
    with pytest.raises(WrongStateError):
        succeed(job_store, lease)
    job = job_store.jobs.cancel(lease, retention_s=RETENTION_S)
    assert (job.status, job.result) == (JobStatus.CANCELED, None)


def test_release_with_and_without_counting(job_store: JobStore) -> None:
    job = add_job(job_store, max_attempts=2)
    for _ in range(5):
        back = job_store.jobs.release(claim(job_store, job.id), count_attempt=False)
        assert (back.status, back.attempt, back.started_at) == (JobStatus.QUEUED, 0, None)
    assert job_store.jobs.release(claim(job_store, job.id), count_attempt=True).attempt == 1
    last = claim(job_store, job.id)
    job_store.jobs.report(last, stage="fetch", progress=0.4, lease_s=30)
    over = job_store.jobs.release(last, count_attempt=True)
    assert (over.status, over.error.code, over.error.retryable) == (JobStatus.FAILED, "worker_lost", True)


def test_a_released_job_is_in_the_outbox_and_starts_from_nothing(job_store: JobStore) -> None:
    job = add_job(job_store)
    job_store.jobs.mark_message_sent(job.id)
    lease = claim(job_store, job.id)
    job_store.jobs.report(lease, stage="synthesize", progress=0.9, lease_s=30)
    back = job_store.jobs.release(lease, count_attempt=True)
    assert (back.stage, back.progress, back.worker) == (None, 0.0, None)
    assert [row.id for row in job_store.jobs.unsent(0)] == [job.id]
    lease = claim(job_store, job.id)
    job_store.jobs.report(lease, stage="fetch", progress=0.1, lease_s=30)
    assert job_store.jobs.get(job.id).progress == 0.1


def test_a_released_job_that_was_canceled_is_canceled(job_store: JobStore) -> None:
    lease = start_job(job_store)
    job_store.jobs.request_cancel(lease.job_id, retention_s=RETENTION_S)
    assert job_store.jobs.release(lease, count_attempt=True).status is JobStatus.CANCELED


def test_an_idempotency_key_creates_one_job(job_store: JobStore) -> None:
    key = IdempotencyKey("order 66\n✓" * 50, "fingerprint-a", 60)
    first = job_store.jobs.create(new_job_id(), spec_of(), max_attempts=3, idempotency=key)
    again = job_store.jobs.create(new_job_id(), spec_of(), max_attempts=3, idempotency=key)
    assert (first.is_new, again.is_new, again.job) == (True, False, first.job)
    other = IdempotencyKey(key.key, "fingerprint-b", 60)
    with pytest.raises(IdempotencyConflictError):
        job_store.jobs.create(new_job_id(), spec_of(), max_attempts=3, idempotency=other)
    assert job_store.jobs.count_by_status()[JobStatus.QUEUED] == 1


def test_an_idempotency_key_lives_as_long_as_its_job_and_its_ttl(job_store: JobStore) -> None:
    key = IdempotencyKey("k", "f", 60)
    first = job_store.jobs.create(new_job_id(), spec_of(), max_attempts=3, idempotency=key).job
    job_store.jobs.request_cancel(first.id, retention_s=60)
    job_store.jobs.delete(first.id)
    assert job_store.jobs.create(new_job_id(), spec_of(), max_attempts=3, idempotency=key).is_new
    brief = IdempotencyKey("brief", "f", 1)
    job_store.jobs.create(new_job_id(), spec_of(), max_attempts=3, idempotency=brief)
    time.sleep(1.05)
    assert job_store.jobs.create(new_job_id(), spec_of(), max_attempts=3, idempotency=brief).is_new


def test_unknown_ids_raise_not_found(job_store: JobStore) -> None:
    nobody = new_job_id()
    for call in (
        lambda: job_store.jobs.get(nobody),
        lambda: job_store.jobs.delete(nobody),
        lambda: job_store.jobs.request_cancel(nobody, retention_s=1),
        lambda: job_store.jobs.events(nobody, after=None),
        lambda: job_store.webhooks.deliveries(nobody),
        lambda: job_store.webhooks.redeliver(nobody),
    ):
        with pytest.raises(JobNotFoundError):
            call()
    assert job_store.jobs.claim(nobody, "w", 30) is None
    assert job_store.jobs.queue_position(nobody) is None


def test_mean_run_is_smoothed_over_successes(job_store: JobStore) -> None:
    assert job_store.jobs.mean_run_s() is None
    lease = start_job(job_store)
    time.sleep(0.1)
    succeed(job_store, lease)
    first_s = job_store.jobs.mean_run_s()
    assert 0.1 <= first_s < 1.0
    job_store.jobs.fail(start_job(job_store), FAULT, retention_s=1)
    assert job_store.jobs.mean_run_s() == first_s
    succeed(job_store, start_job(job_store))
    assert 0.75 * first_s < job_store.jobs.mean_run_s() < first_s


def test_delete_leaves_no_key_behind(job_store: JobStore) -> None:
    lease = start_job(job_store, webhook_url=HOOK, webhook_events=EVERY_EVENT, expires_in_s=50)
    with pytest.raises(WrongStateError):
        job_store.jobs.delete(lease.job_id)
    job_store.jobs.report(lease, stage="fetch", progress=0.5, lease_s=30)
    succeed(job_store, lease)
    assert len(job_store.webhooks.deliveries(lease.job_id)) == 3
    for delivery in job_store.webhooks.deliveries(lease.job_id):
        attempt = DeliveryAttempt(at=delivery.created_at, status_code=500)
        job_store.webhooks.record_attempt(delivery.id, attempt, state="pending", retry_in_s=60)
    job_store.jobs.delete(lease.job_id)
    with pytest.raises(JobNotFoundError):
        job_store.jobs.get(lease.job_id)
    left = {key.partition(":")[2] for key in job_store.redis.client.scan_iter(f"{job_store.redis.prefix}*", count=1000)}
    totals = {name for name in left if name.startswith("usage:")}
    assert left - totals <= {"seq", "webhook_seq", "mean_run_ms", "counters"}, "what is of all jobs together"


def test_a_client_that_does_not_decode_is_refused(redis_url: str) -> None:
    with pytest.raises(ValueError, match="decode_responses"):
        JobStore(redis.Redis.from_url(redis_url))
