"""Evaluations that follow their job: leased on their own, done once, gone with the job."""

from __future__ import annotations

import time

import pytest

from jobs.models import Job
from jobs.store import JobStore, LeaseLostError
from jobs.store.leases import FIRST_FENCE, EvaluationLease
from tests.jobs.making import EVALUATION, HOOK, RENDER, RETENTION_S, result_of, start_job


def succeed_first(store: JobStore, lease_s: float = 30.0, **asked: object) -> Job:
    """A job that succeeded, and that w1 is evaluating."""
    lease = start_job(store, **asked)
    return store.jobs.succeed(
        lease,
        result=result_of(lease),
        render=RENDER,
        evaluation=None,
        retention_s=RETENTION_S,
        evaluation_lease_s=lease_s,
    )


def first_lease(job: Job) -> EvaluationLease:
    return EvaluationLease(job.id, "w1", FIRST_FENCE, 1)


def events_of(store: JobStore, job: Job) -> list[str]:
    return [event.event for event in store.jobs.events(job.id, after=None)]


def deliveries_of(store: JobStore, job: Job) -> list[str]:
    return [delivery.event for delivery in store.webhooks.deliveries(job.id)]


def test_the_numbers_follow_the_success_with_an_event_and_a_webhook_once(job_store: JobStore) -> None:
    job = succeed_first(job_store, webhook_url=HOOK, evaluate_policy="after")
    assert (job.status, job.evaluation, job.evaluation_pending) == ("succeeded", None, True)
    assert deliveries_of(job_store, job) == ["job.succeeded"]
    for _ in range(2):  # a repeated call, whose first reply was lost
        done = job_store.evaluations.finish(first_lease(job), EVALUATION)
        assert (done.evaluation, done.evaluation_pending) == (EVALUATION, False)
    assert events_of(job_store, job)[-2:] == ["job.succeeded", "job.evaluated"]
    assert events_of(job_store, job).count("job.evaluated") == 1
    assert deliveries_of(job_store, job) == ["job.succeeded", "job.evaluated"]
    assert job_store.evaluations.claim(job.id, "w2", 30.0) is None


def test_an_inline_evaluation_leaves_nothing_to_claim(job_store: JobStore) -> None:
    lease = start_job(job_store)
    job = job_store.jobs.succeed(
        lease, result=result_of(lease), render=RENDER, evaluation=EVALUATION, retention_s=RETENTION_S
    )
    assert not job.evaluation_pending
    assert job_store.evaluations.claim(job.id, "w2", 30.0) is None
    assert job_store.evaluations.take_due(pause_s=1.0, longest_s=1.0) == []


def test_nobody_else_takes_a_held_one(job_store: JobStore) -> None:
    job = succeed_first(job_store)
    assert job_store.evaluations.claim(job.id, "w2", 30.0) is None
    assert job_store.evaluations.take_due(pause_s=1.0, longest_s=1.0) == []
    job_store.evaluations.renew(first_lease(job), 30.0)


@pytest.mark.parametrize("how", ["expired", "abandoned", "released"])
def test_the_next_worker_takes_over_and_the_first_has_no_effect(how: str, job_store: JobStore) -> None:
    job = succeed_first(job_store, lease_s=0.05 if how == "expired" else 30.0)
    if how == "expired":
        time.sleep(0.1)
    elif how == "abandoned":
        assert job_store.jobs.abandon(job.id, "w1") == 1
    else:
        job_store.evaluations.release(first_lease(job), count_attempt=True)
    (due,) = job_store.evaluations.take_due(pause_s=30.0, longest_s=60.0)
    assert due.id == job.id
    assert job_store.evaluations.take_due(pause_s=30.0, longest_s=60.0) == [], "one message at a time"
    lease = job_store.evaluations.claim(job.id, "w2", 30.0)
    assert lease is not None
    assert (lease.fence, lease.attempt) == (2, 2)
    assert job_store.evaluations.claim(job.id, "w3", 30.0) is None, "a message that came twice"
    for call in (
        lambda: job_store.evaluations.renew(first_lease(job), 30.0),
        lambda: job_store.evaluations.finish(first_lease(job), EVALUATION),
    ):
        with pytest.raises(LeaseLostError):
            call()
    assert job_store.jobs.get(job.id).evaluation is None
    assert job_store.evaluations.finish(lease, EVALUATION).evaluation == EVALUATION


def test_a_message_that_got_lost_is_sent_again(job_store: JobStore) -> None:
    job = succeed_first(job_store, lease_s=0.01)
    time.sleep(0.05)
    for _ in range(2):
        assert [due.id for due in job_store.evaluations.take_due(pause_s=0.02, longest_s=0.04)] == [job.id]
        time.sleep(0.1)


def test_a_shutdown_does_not_count(job_store: JobStore) -> None:
    job = succeed_first(job_store)
    job_store.evaluations.release(first_lease(job), count_attempt=False)
    lease = job_store.evaluations.claim(job.id, "w2", 30.0)
    assert lease is not None
    assert (lease.fence, lease.attempt) == (2, 1)


def test_a_deleted_job_is_not_evaluated_and_late_files_are_found(job_store: JobStore) -> None:
    job = succeed_first(job_store, lease_s=0.2)
    job_store.jobs.delete(job.id)
    with pytest.raises(LeaseLostError):
        job_store.evaluations.finish(first_lease(job), EVALUATION)
    assert job_store.evaluations.claim(job.id, "w2", 30.0) is None
    time.sleep(0.25)
    assert job_store.evaluations.take_due(pause_s=1.0, longest_s=1.0) == []
    assert job_store.uploads.expired_arrivals() == [job.id], "the janitor deletes what its worker stored meanwhile"
