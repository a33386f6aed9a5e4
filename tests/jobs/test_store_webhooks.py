"""The log of deliveries: made with the transition, held by one, retried, repeated on request."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from jobs.ids import is_delivery_id, new_delivery_id
from jobs.models import Delivery, DeliveryAttempt, ErrorInfo
from jobs.redis_store import RedisJobStore
from jobs.store import JobNotFoundError, ReceiverRules, WrongStateError
from tests.jobs.making import EVERY_EVENT, HOOK, RETENTION_S, add_job, claim, start_job, succeed


def told(store: RedisJobStore, job_id: str) -> list[str]:
    return [delivery.event for delivery in store.deliveries(job_id)]


def attempt_of(status_code: int | None = 500, error: str | None = None) -> DeliveryAttempt:
    return DeliveryAttempt(at=datetime.now(UTC), status_code=status_code, error=error, duration_ms=12)


def take(store: RedisJobStore, hold_s: float = 10.0, free: int = 100, slots: int = 100) -> list[Delivery]:
    return store.take_deliveries(free, ReceiverRules(slots, hold_s))


def finished_delivery(store: RedisJobStore) -> str:
    succeed(store, start_job(store, webhook_url=HOOK))
    (delivery_id,) = store.due_deliveries()
    return delivery_id


def test_events_make_deliveries_as_subscribed(job_store: RedisJobStore) -> None:
    lease = start_job(job_store, webhook_url=HOOK, webhook_events=EVERY_EVENT)
    assert told(job_store, lease.job_id) == ["job.started"]
    for percent in range(0, 101):
        job_store.report(lease, stage="synthesise", progress=percent / 100, lease_s=30)
    succeed(job_store, lease)
    assert told(job_store, lease.job_id) == ["job.started", *["job.progress"] * 10, "job.succeeded"]
    ids = [delivery.id for delivery in job_store.deliveries(lease.job_id)]
    assert len(set(ids)) == 12
    assert all(is_delivery_id(delivery_id) for delivery_id in ids)
    assert sorted(job_store.due_deliveries()) == sorted(ids)


def test_progress_is_told_once_a_tenth_over_all_attempts(job_store: RedisJobStore) -> None:
    job = add_job(job_store, webhook_url=HOOK, webhook_events=["job.progress"])
    for _ in range(2):
        lease = claim(job_store, job.id)
        for progress in (0.05, 0.09, 0.1, 0.19, 0.35, 0.39):
            job_store.report(lease, stage="synthesise", progress=progress, lease_s=30)
        job_store.release(lease, count_attempt=False)
    assert told(job_store, job.id) == ["job.progress"] * 2


def test_a_second_start_is_not_told(job_store: RedisJobStore) -> None:
    lease = start_job(job_store, webhook_url=HOOK, webhook_events=["job.started"])
    job_store.release(lease, count_attempt=True)
    claim(job_store, lease.job_id)
    assert told(job_store, lease.job_id) == ["job.started"]


def test_only_what_was_asked_for_is_told(job_store: RedisJobStore) -> None:
    silent = start_job(job_store, webhook_events=EVERY_EVENT)
    job_store.fail(silent, ErrorInfo(code="engine_fault", message="x"), retention_s=RETENTION_S)
    assert told(job_store, silent.job_id) == []
    only_success = add_job(job_store, webhook_url=HOOK, webhook_events=["job.succeeded"])
    job_store.request_cancel(only_success.id, retention_s=RETENTION_S)
    assert told(job_store, only_success.id) == []
    nothing = start_job(job_store, webhook_url=HOOK, webhook_events=[])
    succeed(job_store, nothing)
    assert told(job_store, nothing.job_id) == []


def test_every_way_to_an_end_is_told(job_store: RedisJobStore) -> None:
    canceled = add_job(job_store, webhook_url=HOOK)
    job_store.request_cancel(canceled.id, retention_s=RETENTION_S)
    assert told(job_store, canceled.id) == ["job.canceled"]
    lost = add_job(job_store, webhook_url=HOOK, max_attempts=1)
    claim(job_store, lost.id, lease_s=0.01)
    late = add_job(job_store, webhook_url=HOOK, expires_in_s=1)
    time.sleep(1.05)
    job_store.requeue_lost()
    job_store.fail_past_deadline(RETENTION_S)
    assert told(job_store, lost.id) == told(job_store, late.id) == ["job.failed"]


def test_a_delivery_is_held_by_one_and_comes_back(job_store: RedisJobStore) -> None:
    delivery_id = finished_delivery(job_store)
    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(lambda _: take(job_store, 2.0), range(8)))
    (delivery,) = [row for rows in held for row in rows]
    assert (delivery.id, delivery.event, delivery.state) == (delivery_id, "job.succeeded", "pending")
    assert job_store.due_deliveries() == []
    time.sleep(2.05)
    assert job_store.due_deliveries() == [delivery_id]
    assert [row.id for row in take(job_store)] == [delivery_id]


def test_attempts_are_logged_and_retried_until_delivered(job_store: RedisJobStore) -> None:
    delivery_id = finished_delivery(job_store)
    take(job_store)
    first, second = attempt_of(503), attempt_of(None, "timeout")
    waiting = job_store.record_attempt(delivery_id, first, state="pending", retry_in_s=1.0)
    assert (waiting.state, waiting.attempts) == ("pending", [first])
    assert waiting.next_attempt_at > datetime.now(UTC).replace(microsecond=0)
    assert take(job_store) == []
    time.sleep(1.05)
    assert [row.attempts for row in take(job_store)] == [[first]]
    done = job_store.record_attempt(delivery_id, second, state="delivered", retry_in_s=None)
    assert (done.state, done.attempts, done.next_attempt_at) == ("delivered", [first, second], None)
    assert take(job_store) == []
    assert job_store.due_deliveries() == []
    again = job_store.record_attempt(delivery_id, second, state="delivered", retry_in_s=None)
    assert again == done


def test_the_log_is_bounded(job_store: RedisJobStore) -> None:
    delivery_id = finished_delivery(job_store)
    for code in range(400, 460):
        job_store.record_attempt(delivery_id, attempt_of(code), state="pending", retry_in_s=0)
    attempts = job_store.deliveries(take(job_store)[0].job_id)[0].attempts
    assert [attempt.status_code for attempt in attempts] == list(range(410, 460))


def test_redelivery_keeps_the_ids(job_store: RedisJobStore) -> None:
    lease = start_job(job_store, webhook_url=HOOK, webhook_events=EVERY_EVENT)
    job_store.report(lease, stage="fetch", progress=0.1, lease_s=30)
    with pytest.raises(WrongStateError):
        job_store.redeliver(lease.job_id)
    succeed(job_store, lease)
    started, progress, succeeded = (row.id for row in job_store.deliveries(lease.job_id))
    job_store.record_attempt(started, attempt_of(410), state="given_up", retry_in_s=None)
    job_store.record_attempt(progress, attempt_of(200), state="delivered", retry_in_s=None)
    job_store.record_attempt(succeeded, attempt_of(200), state="delivered", retry_in_s=None)
    assert job_store.due_deliveries() == []

    again = job_store.redeliver(lease.job_id)
    assert [(row.id, row.state, len(row.attempts)) for row in again] == [
        (started, "pending", 1),
        (succeeded, "pending", 1),
    ]
    assert sorted(job_store.due_deliveries()) == sorted([started, succeeded])
    assert {row.id for row in take(job_store)} == {started}, "one at a time until the receiver has answered"
    job_store.record_attempt(started, attempt_of(200), state="delivered", retry_in_s=None, receiver_did="answered")
    assert {row.id for row in take(job_store)} == {succeeded}


def test_redelivery_leaves_one_in_flight_alone(job_store: RedisJobStore) -> None:
    delivery_id = finished_delivery(job_store)
    (held,) = take(job_store, 5)
    assert held.id == delivery_id
    job_store.redeliver(held.job_id)
    assert take(job_store, 5) == []


def test_a_job_without_webhook_has_nothing_to_redeliver(job_store: RedisJobStore) -> None:
    job = succeed(job_store, start_job(job_store))
    with pytest.raises(WrongStateError):
        job_store.redeliver(job.id)


def test_wrong_ids_and_states_are_refused(job_store: RedisJobStore) -> None:
    assert take(job_store) == []
    with pytest.raises(JobNotFoundError):
        job_store.find_delivery(new_delivery_id())
    with pytest.raises(JobNotFoundError):
        job_store.record_attempt(new_delivery_id(), attempt_of(), state="delivered", retry_in_s=None)
    for state, retry_in_s in (("pending", None), ("delivered", 5.0), ("lost", None)):
        with pytest.raises(ValueError, match="next attempt"):
            job_store.record_attempt(new_delivery_id(), attempt_of(), state=state, retry_in_s=retry_in_s)
