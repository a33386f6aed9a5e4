"""Segments of a split job: leased one by one, fenced, deleted with the job."""

from __future__ import annotations

import time

import pytest

from jobs.store import JobStore, Lease, LeaseLostError, SegmentLease, SegmentOutcome, SplitPlan
from tests.jobs.making import RETENTION_S, claim, start_job, succeed

PLAN = SplitPlan(engine="preview", renderer="r", frames=700, segments=3, scene_key="s", video_key="v", analyzed=0.25)


def split_job(store: JobStore, lease_s: float = 30.0) -> Lease:
    lease = start_job(store, lease_s=lease_s)
    store.segments.open(lease, PLAN)
    return lease


def take(store: JobStore, job: Lease, worker: str = "h1", lease_s: float = 30.0, **asked: Lease) -> SegmentLease:
    segment = store.segments.claim(job.job_id, worker, lease_s, **asked)
    assert segment is not None
    return segment


def outcome_of(segment: SegmentLease) -> SegmentOutcome:
    return SegmentOutcome(key=f"{segment.number}-{segment.fence}", worker=segment.worker_id)


def test_segments_are_leased_once_and_in_order(job_store: JobStore) -> None:
    job = split_job(job_store)
    taken = [take(job_store, job, worker) for worker in ("h1", "h2", "h3")]
    assert [each.number for each in taken] == [0, 1, 2]
    assert len({each.fence for each in taken}) == 3
    assert job_store.segments.claim(job.job_id, "h4", 30.0) is None


def test_progress_is_the_sum_and_the_last_one_completes(job_store: JobStore) -> None:
    job = split_job(job_store)
    first, second, third = (take(job_store, job) for _ in range(3))
    assert job_store.segments.report(first, 0.5, 30.0) is False
    state = job_store.segments.state(job.job_id)
    assert state is not None
    assert (state.plan, state.progress, state.waiting, state.is_complete) == (PLAN, pytest.approx(0.5 / 3), 0, False)
    for segment in (third, first, second):
        assert not job_store.segments.state(job.job_id).is_complete
        job_store.segments.finish(segment, outcome_of(segment))
        job_store.segments.finish(segment, outcome_of(segment))  # the same call after a lost reply
    state = job_store.segments.state(job.job_id)
    assert state.is_complete
    assert state.progress == 1.0
    assert [state.done[number].key for number in range(3)] == [outcome_of(each).key for each in (first, second, third)]


def test_a_lost_segment_is_left_to_the_owner_and_the_late_writer_loses(job_store: JobStore) -> None:
    job = split_job(job_store)
    lost = take(job_store, job, "h1", lease_s=0.05)
    others = [take(job_store, job, "h2"), take(job_store, job, "h2")]
    time.sleep(0.1)
    assert job_store.segments.claim(job.job_id, "h2", 30.0) is None
    again = take(job_store, job, "w1", owner=job)
    assert (again.number, again.attempt) == (lost.number, 2)
    for late in (
        lambda: job_store.segments.finish(lost, outcome_of(lost)),
        lambda: job_store.segments.report(lost, 0.9, 30.0),
    ):
        with pytest.raises(LeaseLostError):
            late()
    job_store.segments.release(lost, count_attempt=True)
    assert job_store.segments.claim(job.job_id, "w1", 30.0, owner=job) is None
    for segment in (again, *others):
        job_store.segments.finish(segment, outcome_of(segment))
    assert job_store.segments.state(job.job_id).done[0].worker == "w1"


def test_an_expired_lease_that_no_one_took_over_is_still_valid(job_store: JobStore) -> None:
    job = split_job(job_store)
    segment = take(job_store, job, lease_s=0.05)
    time.sleep(0.1)
    job_store.segments.finish(segment, outcome_of(segment))
    assert 0 in job_store.segments.state(job.job_id).done


def test_a_segment_released_uncounted_may_go_to_any_helper(job_store: JobStore) -> None:
    job = split_job(job_store)
    for count, expected in ((False, 0), (True, 2)):
        job_store.segments.release(take(job_store, job), count_attempt=count)
        assert take(job_store, job, "h2").number == expected


def test_only_the_newest_owner_splits_and_claims_as_owner(job_store: JobStore) -> None:
    old = split_job(job_store, lease_s=0.05)
    kept = take(job_store, old, "h1")
    time.sleep(0.1)
    job_store.jobs.requeue_lost()
    # Helpers go on while the job waits for its next owner.
    assert job_store.segments.report(kept, 0.3, 30.0) is False
    new = claim(job_store, old.job_id, "w2")
    for late in (
        lambda: job_store.segments.open(old, PLAN),
        lambda: job_store.segments.claim(old.job_id, "w1", 30.0, owner=old),
    ):
        with pytest.raises(LeaseLostError):
            late()
    assert job_store.segments.state(old.job_id).plan == PLAN
    job_store.segments.open(new, PLAN.model_copy(update={"scene_key": "other"}))
    with pytest.raises(LeaseLostError):
        job_store.segments.finish(kept, outcome_of(kept))
    # Also when another worker renders the segment with this number again: fences are never reused.
    again = take(job_store, new, "h2")
    assert (again.number, again.fence) == (kept.number, kept.fence + 1)
    with pytest.raises(LeaseLostError):
        job_store.segments.finish(kept, outcome_of(kept))


def test_leases_of_a_dead_worker_expire_at_once(job_store: JobStore) -> None:
    """Its segments are left to the owner, like all lost ones, and its job to the janitor."""
    job = split_job(job_store)
    lost, kept = take(job_store, job, "h1"), take(job_store, job, "h2")
    assert job_store.jobs.abandon(job.job_id, "h1") == 1
    again = take(job_store, job, job.worker_id, owner=job)
    assert (again.number, again.attempt) == (lost.number, 2)
    with pytest.raises(LeaseLostError):
        job_store.segments.finish(lost, outcome_of(lost))
    assert job_store.segments.report(kept, 0.5, 30.0) is False
    assert job_store.jobs.requeue_lost() == []
    assert job_store.jobs.abandon(job.job_id, "another") == 0
    assert job_store.jobs.abandon(job.job_id, job.worker_id) == 2
    (requeued,) = job_store.jobs.requeue_lost()
    assert (requeued.id, requeued.attempt, requeued.status.value) == (job.job_id, 1, "queued")
    assert job_store.jobs.abandon(job.job_id, job.worker_id) == 1, "the segment; the job is in nobody's hands"


def test_a_cancel_reaches_every_worker_and_stops_the_claims(job_store: JobStore) -> None:
    job = split_job(job_store)
    segment = take(job_store, job)
    job_store.jobs.request_cancel(job.job_id, retention_s=RETENTION_S)
    assert job_store.segments.report(segment, 0.2, 30.0) is True
    assert job_store.segments.claim(job.job_id, "h2", 30.0) is None


@pytest.mark.parametrize("end", ["succeed", "cancel", "lost"])
def test_a_split_ends_with_its_job_and_its_files_are_due_for_deletion(job_store: JobStore, end: str) -> None:
    job = start_job(job_store, lease_s=0.05 if end == "lost" else 30.0)
    job_store.segments.open(job, PLAN)
    segment = take(job_store, job)
    assert job_store.segments.ended() == []
    if end == "succeed":
        succeed(job_store, job)
    elif end == "cancel":
        job_store.jobs.cancel(job, retention_s=RETENTION_S)
    else:
        time.sleep(0.1)
        job_store.jobs.requeue_lost()
        job_store.jobs.request_cancel(job.job_id, retention_s=RETENTION_S)
    assert job_store.segments.state(job.job_id) is None
    assert job_store.segments.claim(job.job_id, "h2", 30.0) is None
    with pytest.raises(LeaseLostError):
        job_store.segments.report(segment, None, 30.0)
    assert job_store.segments.ended() == [job.job_id]
    job_store.segments.drop(job.job_id)
    assert job_store.segments.ended() == []


def test_a_job_that_was_never_split_leaves_nothing(job_store: JobStore) -> None:
    job = start_job(job_store)
    assert job_store.segments.claim(job.job_id, "h1", 30.0) is None
    succeed(job_store, job)
    assert job_store.segments.ended() == []
