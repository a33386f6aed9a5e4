"""Webhook deliveries: created with the transition, held by one sender, retried, redelivered on request."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from jobs.models import Delivery, DeliveryAttempt, ErrorInfo
from jobs.names import is_delivery_id, new_delivery_id, new_job_id
from jobs.store import JobNotFoundError, JobStore, Origin, ReceiverRules, WebhookSecretState, WrongStateError
from tests.jobs.making import EVERY_EVENT, HOOK, RETENTION_S, add_job, claim, spec_of, start_job, succeed


def told(store: JobStore, job_id: str) -> list[str]:
    return [delivery.event for delivery in store.webhooks.deliveries(job_id)]


def attempt_of(status_code: int | None = 500, error: str | None = None) -> DeliveryAttempt:
    return DeliveryAttempt(at=datetime.now(UTC), status_code=status_code, error=error, duration_ms=12)


def take(store: JobStore, hold_s: float = 10.0, free: int = 100, slots: int = 100) -> list[Delivery]:
    return store.webhooks.take(free, ReceiverRules(slots, hold_s))


def finished_delivery(store: JobStore) -> str:
    succeed(store, start_job(store, webhook_url=HOOK))
    (delivery_id,) = store.webhooks.due()
    return delivery_id


def test_events_make_deliveries_as_subscribed(job_store: JobStore) -> None:
    lease = start_job(job_store, webhook_url=HOOK, webhook_events=EVERY_EVENT)
    assert told(job_store, lease.job_id) == ["job.started"]
    for percent in range(0, 101):
        job_store.jobs.report(lease, stage="synthesize", progress=percent / 100, lease_s=30)
    succeed(job_store, lease)
    assert told(job_store, lease.job_id) == ["job.started", *["job.progress"] * 10, "job.succeeded"]
    ids = [delivery.id for delivery in job_store.webhooks.deliveries(lease.job_id)]
    assert len(set(ids)) == 12
    assert all(is_delivery_id(delivery_id) for delivery_id in ids)
    assert sorted(job_store.webhooks.due()) == sorted(ids)


def test_progress_is_delivered_at_each_tenth_once(job_store: JobStore) -> None:
    job = add_job(job_store, webhook_url=HOOK, webhook_events=["job.progress"])
    for _ in range(2):
        lease = claim(job_store, job.id)
        for progress in (0.05, 0.09, 0.1, 0.19, 0.35, 0.39):
            job_store.jobs.report(lease, stage="synthesize", progress=progress, lease_s=30)
        job_store.jobs.release(lease, count_attempt=False)
    assert told(job_store, job.id) == ["job.progress"] * 2


def test_a_second_start_is_not_delivered(job_store: JobStore) -> None:
    lease = start_job(job_store, webhook_url=HOOK, webhook_events=["job.started"])
    job_store.jobs.release(lease, count_attempt=True)
    claim(job_store, lease.job_id)
    assert told(job_store, lease.job_id) == ["job.started"]


def test_only_subscribed_events_are_delivered(job_store: JobStore) -> None:
    silent = start_job(job_store, webhook_events=EVERY_EVENT)
    job_store.jobs.fail(silent, ErrorInfo(code="engine_fault", message="x"), retention_s=RETENTION_S)
    assert told(job_store, silent.job_id) == []
    only_success = add_job(job_store, webhook_url=HOOK, webhook_events=["job.succeeded"])
    job_store.jobs.request_cancel(only_success.id, retention_s=RETENTION_S)
    assert told(job_store, only_success.id) == []
    nothing = start_job(job_store, webhook_url=HOOK, webhook_events=[])
    succeed(job_store, nothing)
    assert told(job_store, nothing.job_id) == []


def test_every_terminal_state_is_delivered(job_store: JobStore) -> None:
    canceled = add_job(job_store, webhook_url=HOOK)
    job_store.jobs.request_cancel(canceled.id, retention_s=RETENTION_S)
    assert told(job_store, canceled.id) == ["job.canceled"]
    lost = add_job(job_store, webhook_url=HOOK, max_attempts=1)
    claim(job_store, lost.id, lease_s=0.01)
    late = add_job(job_store, webhook_url=HOOK, expires_in_s=1)
    time.sleep(1.05)
    job_store.jobs.requeue_lost()
    job_store.jobs.fail_past_deadline(RETENTION_S)
    assert told(job_store, lost.id) == told(job_store, late.id) == ["job.failed"]


def test_a_delivery_is_held_by_one_and_comes_back(job_store: JobStore) -> None:
    delivery_id = finished_delivery(job_store)
    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(lambda _: take(job_store, 2.0), range(8)))
    (delivery,) = [row for rows in held for row in rows]
    assert (delivery.id, delivery.event, delivery.state) == (delivery_id, "job.succeeded", "pending")
    assert job_store.webhooks.due() == []
    time.sleep(2.05)
    assert job_store.webhooks.due() == [delivery_id]
    assert [row.id for row in take(job_store)] == [delivery_id]


def test_attempts_are_logged_and_retried_until_delivered(job_store: JobStore) -> None:
    delivery_id = finished_delivery(job_store)
    take(job_store)
    first, second = attempt_of(503), attempt_of(None, "timeout")
    waiting = job_store.webhooks.record_attempt(delivery_id, first, state="pending", retry_in_s=1.0)
    assert (waiting.state, waiting.attempts) == ("pending", [first])
    assert waiting.next_attempt_at > datetime.now(UTC).replace(microsecond=0)
    assert take(job_store) == []
    time.sleep(1.05)
    assert [row.attempts for row in take(job_store)] == [[first]]
    done = job_store.webhooks.record_attempt(delivery_id, second, state="delivered", retry_in_s=None)
    assert (done.state, done.attempts, done.next_attempt_at) == ("delivered", [first, second], None)
    assert take(job_store) == []
    assert job_store.webhooks.due() == []
    again = job_store.webhooks.record_attempt(delivery_id, second, state="delivered", retry_in_s=None)
    assert again == done


def test_the_log_is_bounded(job_store: JobStore) -> None:
    delivery_id = finished_delivery(job_store)
    for code in range(400, 460):
        job_store.webhooks.record_attempt(delivery_id, attempt_of(code), state="pending", retry_in_s=0)
    attempts = job_store.webhooks.deliveries(take(job_store)[0].job_id)[0].attempts
    assert [attempt.status_code for attempt in attempts] == list(range(410, 460))


def test_redelivery_keeps_the_ids(job_store: JobStore) -> None:
    lease = start_job(job_store, webhook_url=HOOK, webhook_events=EVERY_EVENT)
    job_store.jobs.report(lease, stage="fetch", progress=0.1, lease_s=30)
    with pytest.raises(WrongStateError):
        job_store.webhooks.redeliver(lease.job_id)
    succeed(job_store, lease)
    started, progress, succeeded = (row.id for row in job_store.webhooks.deliveries(lease.job_id))
    job_store.webhooks.record_attempt(started, attempt_of(410), state="given_up", retry_in_s=None)
    job_store.webhooks.record_attempt(progress, attempt_of(200), state="delivered", retry_in_s=None)
    job_store.webhooks.record_attempt(succeeded, attempt_of(200), state="delivered", retry_in_s=None)
    assert job_store.webhooks.due() == []

    again = job_store.webhooks.redeliver(lease.job_id)
    assert [(row.id, row.state, len(row.attempts)) for row in again] == [
        (started, "pending", 1),
        (succeeded, "pending", 1),
    ]
    assert sorted(job_store.webhooks.due()) == sorted([started, succeeded])
    (first,) = take(job_store)  # one at a time until the receiver has answered
    answer(job_store, first)
    (second,) = take(job_store)
    assert {first.id, second.id} == {started, succeeded}


def test_redelivery_leaves_a_delivery_in_flight_alone(job_store: JobStore) -> None:
    delivery_id = finished_delivery(job_store)
    (held,) = take(job_store, 5)
    assert held.id == delivery_id
    job_store.webhooks.redeliver(held.job_id)
    assert take(job_store, 5) == []


def test_a_job_without_webhook_has_nothing_to_redeliver(job_store: JobStore) -> None:
    job = succeed(job_store, start_job(job_store))
    with pytest.raises(WrongStateError):
        job_store.webhooks.redeliver(job.id)


def test_wrong_ids_and_states_are_refused(job_store: JobStore) -> None:
    assert take(job_store) == []
    with pytest.raises(JobNotFoundError):
        job_store.webhooks.find(new_delivery_id())
    with pytest.raises(JobNotFoundError):
        job_store.webhooks.record_attempt(new_delivery_id(), attempt_of(), state="delivered", retry_in_s=None)
    for state, retry_in_s in (("pending", None), ("delivered", 5.0), ("lost", None)):
        with pytest.raises(ValueError, match="next attempt"):
            job_store.webhooks.record_attempt(new_delivery_id(), attempt_of(), state=state, retry_in_s=retry_in_s)


def waiting_event(store: JobStore, url: str, owner: str = "") -> str:
    """A due delivery of a job that ended. Its id."""
    job_id = new_job_id()
    store.jobs.create(job_id, spec_of(webhook_url=url), max_attempts=1, origin=Origin(owner, 10_000))
    store.jobs.request_cancel(job_id, retention_s=RETENTION_S)
    return store.webhooks.deliveries(job_id)[0].id


def answer(store: JobStore, delivery: Delivery, receiver_did: str = "answered", breaker_s: float = 30.0) -> None:
    state, retry_in_s = ("delivered", None) if receiver_did == "answered" else ("pending", 0.0)
    told = attempt_of(200 if receiver_did == "answered" else None)
    store.webhooks.record_attempt(
        delivery.id,
        told,
        state=state,
        retry_in_s=retry_in_s,
        holder=delivery.holder,
        receiver_did=receiver_did,
        breaker_s=breaker_s,
    )


def test_a_receiver_that_never_answered_gets_one_request_at_a_time(job_store: JobStore) -> None:
    slow = {waiting_event(job_store, "http://slow.example/x") for _ in range(50)}
    quick = waiting_event(job_store, "http://quick.example/")
    taken = {each.id for each in take(job_store)}
    assert quick in taken
    assert len(taken & slow) == 1
    assert take(job_store) == []


def test_a_receiver_that_answers_gets_several_and_no_more(job_store: JobStore) -> None:
    for _ in range(50):
        waiting_event(job_store, HOOK)
    (first,) = take(job_store)
    answer(job_store, first)
    several = take(job_store)
    assert len(several) == ReceiverRules(1, 1).per_receiver
    answer(job_store, several[0])
    assert len(take(job_store)) == 1
    answer(job_store, several[1], "failed")
    assert take(job_store) == [], "it failed: one at a time, and seven are under way"


def test_an_owner_leaves_as_much_free_as_it_holds(job_store: JobStore) -> None:
    """For any number of receivers: each subdomain is one."""
    greedy, modest = "a" * 16, "b" * 16
    for number in range(100):
        waiting_event(job_store, f"http://r{number}.example/", greedy)
    assert len(take(job_store, free=40, slots=40)) == 20
    hers = waiting_event(job_store, "http://modest.example/", modest)
    assert [each.id for each in take(job_store, free=20, slots=40)] == [hers]


def test_receivers_that_do_not_answer_leave_slots_for_those_that_do(job_store: JobStore) -> None:
    """Without keys there are no owners to distinguish."""
    waiting_event(job_store, HOOK)
    answer(job_store, *take(job_store))
    for number in range(100):
        waiting_event(job_store, f"http://r{number}.example/")
    assert len(take(job_store, free=40, slots=40)) == 30
    again = waiting_event(job_store, HOOK)
    assert [each.id for each in take(job_store, free=10, slots=40)] == [again]


def test_owners_and_receivers_take_turns(job_store: JobStore) -> None:
    one, other = "a" * 16, "b" * 16
    for owner, urls in ((one, ("http://x.example/", "http://y.example/")), (other, ("http://x.example/",))):
        for url in urls:
            waiting_event(job_store, url, owner)
    for each in take(job_store):
        answer(job_store, each)  # they are known to answer
    for _ in range(6):
        waiting_event(job_store, "http://x.example/", one)
    last_of_one = waiting_event(job_store, "http://y.example/", one)
    of_other = waiting_event(job_store, "http://x.example/", other)
    taken = [each.id for each in take(job_store, free=6)]
    assert of_other in taken[:2]
    assert last_of_one in taken


def test_the_circuit_breaker_opens_sends_one_probe_and_closes(job_store: JobStore) -> None:
    events = [waiting_event(job_store, HOOK) for _ in range(5)]
    for _ in range(3):
        (delivery,) = take(job_store)
        answer(job_store, delivery, "failed", breaker_s=0.4)
    assert take(job_store) == [], "open"
    assert job_store.counters.tally().counts["webhook_breaker"] == {"opened": 1}
    other = waiting_event(job_store, "http://other.example/")
    assert [each.id for each in take(job_store)] == [other]
    time.sleep(0.5)
    (probe,) = take(job_store)
    assert take(job_store) == [], "half open"
    answer(job_store, probe, "failed", breaker_s=0.4)
    time.sleep(0.5)
    assert take(job_store) == [], "open for twice as long"
    time.sleep(0.5)
    (probe,) = take(job_store)
    answer(job_store, probe)
    assert len(take(job_store)) == len(events) - 1, "closed"


def test_receiver_health_is_separate_for_each_owner(job_store: JobStore) -> None:
    one, other = "a" * 16, "b" * 16
    waiting_event(job_store, HOOK, one)
    for _ in range(3):
        answer(job_store, *take(job_store), "failed")
    assert take(job_store) == []
    theirs = waiting_event(job_store, HOOK, other)
    assert [each.id for each in take(job_store)] == [theirs]


def test_a_sender_whose_hold_expired_has_no_effect_unless_the_event_arrived(job_store: JobStore) -> None:
    waiting_event(job_store, HOOK)
    (first,) = take(job_store, 0.2)
    time.sleep(0.25)
    (second,) = take(job_store)
    assert first.id == second.id
    late = job_store.webhooks.record_attempt(
        first.id, attempt_of(500), state="given_up", retry_in_s=None, holder=first.holder, receiver_did="failed"
    )
    assert (late.state, len(late.attempts)) == ("pending", 1)
    assert take(job_store) == []
    assert (
        job_store.webhooks.record_attempt(
            first.id, attempt_of(200), state="delivered", retry_in_s=None, holder=first.holder
        ).state
        == "delivered"
    )


def test_undelivered_events_are_listed_by_owner_and_state(job_store: JobStore) -> None:
    one, other = "a" * 16, "b" * 16
    mine = [waiting_event(job_store, f"http://r{number}.example/", one) for number in range(5)]
    theirs = waiting_event(job_store, HOOK, other)
    told = attempt_of(410)
    for delivery_id in mine[:3]:
        job_store.webhooks.record_attempt(delivery_id, told, state="given_up", retry_in_s=None)
    job_store.webhooks.record_attempt(mine[3], attempt_of(200), state="delivered", retry_in_s=None)

    def listed(state: str, owner: str | None) -> list[str]:
        found, cursor = [], None
        while True:
            page = job_store.webhooks.undelivered(state=state, cursor=cursor, limit=2, owner=owner)
            found += [each.id for each in page.deliveries]
            cursor = page.next_cursor
            if cursor is None:
                return found

    assert listed("given_up", one) == mine[:3]
    assert listed("pending", one) == [mine[4]]
    assert listed("given_up", other) == []
    assert listed("pending", None) == [mine[4], theirs]
    backlog = job_store.webhooks.backlog()
    assert (backlog.pending, backlog.due, backlog.given_up) == (2, 2, 3)
    job_store.webhooks.redeliver(job_store.webhooks.find(mine[0]).job_id, mine[0])
    assert listed("pending", one) == [mine[4], mine[0]]
    job_store.jobs.delete(job_store.webhooks.find(mine[1]).job_id)
    assert listed("given_up", one) == [mine[2]]


def test_deliveries_of_an_earlier_version_are_adopted(job_store: JobStore) -> None:
    delivery_id = waiting_event(job_store, HOOK, "a" * 16)
    client, key = job_store.redis.client, job_store.redis.key
    client.hdel(key("delivery", delivery_id), "receiver", "seq", "opened_ms", "tries", "snapshot")
    for name in ("webhook_owners", "deliveries:pending", f"deliveries:pending:{'a' * 16}"):
        client.delete(key(name))
    for name in client.scan_iter(key("webhook_receivers", "*")):
        client.delete(name)
    assert take(job_store) == []
    assert job_store.webhooks.adopt() == 1
    assert job_store.webhooks.adopt() == 0
    assert [each.id for each in take(job_store)] == [delivery_id]


def test_rotation_keeps_the_previous_secret_for_a_while(job_store: JobStore) -> None:
    owner = "a" * 16
    assert job_store.webhooks.secret_state(owner) == WebhookSecretState()
    rotated = job_store.webhooks.rotate_secret(owner, 0.3)
    assert (rotated.version, rotated.previous) == (2, 1)
    assert job_store.webhooks.secret_state(owner) == rotated
    time.sleep(0.35)
    assert job_store.webhooks.secret_state(owner) == WebhookSecretState(2)
    assert job_store.webhooks.rotate_secret(owner, 0) == WebhookSecretState(3)
    assert job_store.webhooks.secret_state("b" * 16).version == 1
