"""Jobs whose inputs are addresses: fairly shared out, held, and claimable once their inputs are stored."""

from __future__ import annotations

import time

import pytest

from jobs.models import ErrorInfo, InputRef, JobRequest, JobSpec, JobStatus
from jobs.names import new_job_id
from jobs.store import ByteQuota, Fetch, JobStore, LeaseLostError, Origin, ReceiverRules, StorageQuotaError
from tests.jobs.making import RETENTION_S, add_job, claim, succeed

SLOTS = 16
RULES = ReceiverRules(SLOTS, hold_s=30.0, per_untrusted=4)
FILES = {"video": InputRef(kind="object", key="jobs/1/input/video-1", size_bytes=3)}
ERROR = ErrorInfo(code="input_unreachable", message="It does not answer.")


def add(store: JobStore, host: str = "a.example", owner: str = "", **asked: object) -> str:
    job_id = new_job_id()
    ref = InputRef(kind="url", url=f"http://{host}/clip")
    spec = JobSpec(video=ref, audio=ref, request=JobRequest(**asked))
    store.jobs.create(job_id, spec, max_attempts=3, origin=Origin(owner, 10_000))
    return job_id


def take(store: JobStore, free: int = SLOTS, rules: ReceiverRules = RULES) -> list[Fetch]:
    return store.fetches.take(free, rules)


def trust(store: JobStore, host: str, owner: str = "") -> None:
    """One fetch from there went well."""
    job_id = add(store, host, owner)
    for fetch in take(store):
        if fetch.job_id == job_id:
            store.fetches.finish(fetch, FILES)
        else:
            store.fetches.release(fetch, pause_s=0, error=None)


def hosts(fetches: list[Fetch]) -> list[str]:
    return [str(fetch.job.spec.video.url).split("/")[2] for fetch in fetches]


def test_a_job_is_claimable_when_its_inputs_are_there(job_store: JobStore) -> None:
    first, later = add(job_store), add_job(job_store).id
    assert job_store.jobs.claim(first, "w1", 30) is None
    assert (job_store.jobs.queue_position(first), job_store.jobs.queue_position(later)) == (None, 1)
    assert job_store.jobs.queue_depths() == {0: 0, 1: 1, 2: 0}
    (fetch,) = take(job_store)
    assert (fetch.job_id, fetch.fence, fetch.attempt, fetch.job.awaits_inputs) == (first, 1, 1, True)
    job = job_store.fetches.finish(fetch, FILES)
    assert (job.status, job.awaits_inputs, job.inputs["video"]) == (JobStatus.QUEUED, False, FILES["video"])
    assert job.spec.video.kind == "url"
    # It came first, so it stands first
    assert (job_store.jobs.queue_position(first), job_store.jobs.queue_position(later)) == (1, 2)
    assert {job.id for job in job_store.jobs.unsent(0)} == {first, later}
    assert succeed(job_store, claim(job_store, first)).status is JobStatus.SUCCEEDED


def test_a_repeated_end_is_no_second_one(job_store: JobStore) -> None:
    """The reply to the first call got lost."""
    good, bad = add(job_store), add(job_store, "b.example")
    fetches = {fetch.job_id: fetch for fetch in take(job_store)}
    for _ in range(2):
        assert job_store.fetches.finish(fetches[good], FILES).status is JobStatus.QUEUED
        failed = job_store.fetches.fail(fetches[bad], ERROR, is_receivers=True, retention_s=RETENTION_S)
        assert (failed.status, failed.error) == (JobStatus.FAILED, ERROR)
    assert job_store.counters.tally().counts["failed"] == {"input_unreachable": 1}


def test_a_fetch_whose_holder_died_is_due_again_and_the_late_one_has_no_say(job_store: JobStore) -> None:
    job_id = add(job_store)
    (dead,) = take(job_store, rules=ReceiverRules(SLOTS, hold_s=0.05))
    assert take(job_store) == []
    time.sleep(0.1)
    (second,) = take(job_store)
    assert (second.job_id, second.fence, second.attempt) == (job_id, 2, 2)
    quota = ByteQuota("", 100, 100)
    for call in (
        lambda: job_store.fetches.renew(dead, 30),
        lambda: job_store.fetches.reserve(dead, 1, quota),
        lambda: job_store.fetches.finish(dead, FILES),
        lambda: job_store.fetches.fail(dead, ERROR, is_receivers=True, retention_s=1),
        lambda: job_store.fetches.release(dead, pause_s=0, error=ERROR),
    ):
        with pytest.raises(LeaseLostError):
            call()
    job_store.fetches.drop(dead)
    assert job_store.fetches.renew(second, 30) is False
    assert job_store.fetches.count() == 1


def test_a_renewed_hold_lasts(job_store: JobStore) -> None:
    add(job_store)
    (fetch,) = take(job_store, rules=ReceiverRules(SLOTS, hold_s=0.2))
    for _ in range(4):
        time.sleep(0.1)
        job_store.fetches.renew(fetch, 0.2, stage="fetch", progress=0.01)
    assert take(job_store) == []
    assert job_store.jobs.get(fetch.job_id).stage == "fetch"


def test_progress_of_a_fetch_never_falls_at_the_start(job_store: JobStore) -> None:
    job_id = add(job_store)
    (fetch,) = take(job_store)
    job_store.fetches.renew(fetch, 30, stage="fetch", progress=0.05)
    job_store.fetches.finish(fetch, FILES)
    lease = claim(job_store, job_id)
    assert job_store.jobs.get(job_id).progress == 0.05
    job_store.jobs.report(lease, stage="fetch", progress=0.0, lease_s=30)
    told = [event.progress for event in job_store.jobs.events(job_id, after=None)]
    assert told == sorted(told)
    job_store.jobs.release(lease, count_attempt=True)
    claim(job_store, job_id)
    assert job_store.jobs.get(job_id).progress == 0.0


def test_an_end_in_between_takes_the_job_from_its_fetcher(job_store: JobStore) -> None:
    """And the fetch stays due until its files are deleted."""
    job_id = add(job_store)
    (fetch,) = take(job_store, rules=ReceiverRules(SLOTS, hold_s=0.05))
    assert job_store.jobs.request_cancel(job_id, retention_s=RETENTION_S).status is JobStatus.CANCELED
    with pytest.raises(LeaseLostError):
        job_store.fetches.renew(fetch, 30)
    with pytest.raises(LeaseLostError):
        job_store.fetches.reserve(fetch, 10, ByteQuota("", 100, 100))
    time.sleep(0.1)
    (cleaner,) = take(job_store)
    assert (cleaner.job.status, cleaner.fence) == (JobStatus.CANCELED, 2)
    job_store.fetches.drop(cleaner)
    assert (take(job_store), job_store.fetches.count()) == ([], 0)


def test_an_end_before_the_first_fetch_leaves_nothing_to_do(job_store: JobStore) -> None:
    canceled, late = add(job_store), add(job_store, expires_in_s=1)
    job_store.jobs.request_cancel(canceled, retention_s=RETENTION_S)
    time.sleep(1.1)
    assert [job.id for job in job_store.jobs.fail_past_deadline(RETENTION_S)] == [late]
    assert (take(job_store), job_store.fetches.count()) == ([], 0)
    assert not list(job_store.redis.client.scan_iter(job_store.redis.key("fetch_queue", "*")))


def test_a_deleted_job_is_fetched_no_more(job_store: JobStore) -> None:
    job_id = add(job_store)
    take(job_store, rules=ReceiverRules(SLOTS, hold_s=0.05))
    job_store.jobs.request_cancel(job_id, retention_s=RETENTION_S)
    job_store.jobs.delete(job_id)
    time.sleep(0.1)
    assert (take(job_store), job_store.fetches.count(), job_store.quarantine.size()) == ([], 0, 0)


def test_an_unreadable_record_is_set_aside_and_the_others_are_fetched(job_store: JobStore) -> None:
    broken, good = add(job_store), add(job_store)
    job_store.redis.client.hset(job_store.redis.key("job", broken), "spec", "{")
    assert [fetch.job_id for fetch in take(job_store)] == [good]
    assert [record.id for record in job_store.quarantine.records()] == [broken]
    assert job_store.fetches.count() == 1


# Shared out


def test_no_host_takes_more_than_its_share(job_store: JobStore) -> None:
    """Few before it has answered, more after that, and few again when it failed."""
    for _ in range(20):
        add(job_store, "slow.example")
    first = take(job_store)
    assert len(first) == RULES.per_untrusted
    add(job_store, "other.example")
    assert hosts(take(job_store)) == ["other.example"]
    job_store.fetches.finish(first[0], FILES)
    assert len(take(job_store)) == RULES.per_receiver - (RULES.per_untrusted - 1)
    job_store.fetches.fail(first[1], ERROR, is_receivers=True, retention_s=RETENTION_S)
    assert take(job_store) == []


def test_a_host_that_failed_is_not_paused(job_store: JobStore) -> None:
    """Its jobs end by their own error; a circuit breaker would keep them waiting for nothing."""
    for _ in range(10):
        add(job_store, "gone.example")
    failed = 0
    while fetches := take(job_store):
        for fetch in fetches:
            job_store.fetches.fail(fetch, ERROR, is_receivers=True, retention_s=RETENTION_S)
            failed += 1
    assert failed == 10


def test_one_owner_leaves_slots_for_the_others(job_store: JobStore) -> None:
    """However many hosts it names, and though they answered before."""
    greedy, modest = "aa" * 8, "bb" * 8
    for number in range(30):
        trust(job_store, f"h{number}.example", greedy)
    for number in range(30):
        add(job_store, f"h{number}.example", greedy)
    held = len(take(job_store))
    assert held == SLOTS // 2
    assert take(job_store, SLOTS - held) == []
    wanted = add(job_store, "h0.example", modest)
    assert [fetch.job_id for fetch in take(job_store, SLOTS - held)] == [wanted]


def test_hosts_that_never_answer_leave_a_quarter_to_those_that_do(job_store: JobStore) -> None:
    """Where no keys are required, everybody is one owner."""
    trust(job_store, "good.example")
    for number in range(40):
        add(job_store, f"h{number}.example")
    held = len(take(job_store))
    assert held == SLOTS * 3 // 4
    wanted = add(job_store, "good.example")
    assert [fetch.job_id for fetch in take(job_store, SLOTS - held)] == [wanted]


def test_priority_decides_among_the_jobs_of_one_host(job_store: JobStore) -> None:
    usual, urgent = add(job_store), add(job_store, priority=2)
    assert [fetch.job_id for fetch in take(job_store)] == [urgent, usual]


def test_deliveries_and_fetches_are_shared_out_apart(job_store: JobStore) -> None:
    job_id = add(job_store, "both.example", webhook_url="http://both.example/hook", webhook_events=["job.failed"])
    (fetch,) = take(job_store)
    job_store.fetches.fail(fetch, ERROR, is_receivers=True, retention_s=RETENTION_S)
    assert [each.job_id for each in job_store.webhooks.take(4, RULES)] == [job_id]
    assert take(job_store) == []


# Storage


def test_what_a_fetch_reserves_comes_on_top_of_what_arrived(job_store: JobStore) -> None:
    owner = "cc" * 8
    job_id, quota = new_job_id(), ByteQuota(owner, 100, 1000)
    job_store.uploads.add_arrival(job_id, 60)
    job_store.uploads.reserve(job_id, 40, quota)
    video = InputRef(kind="url", url="http://a.example/v")
    audio = InputRef(kind="object", key=f"jobs/{job_id}/input/audio", size_bytes=40)
    spec = JobSpec(video=video, audio=audio, request=JobRequest())
    job_store.jobs.create(job_id, spec, max_attempts=3, origin=Origin(owner, 10), arrived=True)
    (fetch,) = take(job_store)
    job_store.fetches.reserve(fetch, 60, quota)
    assert job_store.uploads.stored_bytes(owner) == 100
    with pytest.raises(StorageQuotaError):
        job_store.fetches.reserve(fetch, 61, quota)
    job_store.fetches.release(fetch, pause_s=0, error=ERROR)
    assert job_store.uploads.stored_bytes(owner) == 40
    (fetch,) = take(job_store)
    job_store.fetches.reserve(fetch, 30, quota)
    job_store.fetches.finish(fetch, FILES)
    assert job_store.uploads.stored_bytes(owner) == 70


# Records of earlier versions


def as_before(store: JobStore, job_id: str) -> None:
    """The record as a version wrote it whose render workers fetched."""
    client, key = store.redis.client, store.redis.key
    receiver = client.hget(key("job", job_id), "fetch_receiver")
    client.hdel(key("job", job_id), "inputs", "fetch_receiver", "held_until", "holder", "arrived_bytes")
    client.delete(key("fetches_due"), key("fetch_queue", receiver), key("fetch_receivers", ""), key("fetch_owners"))
    client.zadd(key("waiting"), {job_id: 2**50 + 1})
    client.zadd(key("outbox"), {job_id: 1})


def test_an_earlier_versions_job_is_fetched_when_a_worker_wants_it(job_store: JobStore) -> None:
    job_id = add(job_store, expires_in_s=50)
    as_before(job_store, job_id)
    assert job_store.jobs.claim(job_id, "w1", 30) is None
    assert (job_store.jobs.queue_position(job_id), job_store.jobs.unsent(0)) == (None, [])
    (fetch,) = take(job_store)
    assert (fetch.job_id, fetch.job.attempt) == (job_id, 0)
    job_store.fetches.finish(fetch, FILES)
    assert claim(job_store, job_id).attempt == 1


def test_an_earlier_versions_job_with_files_is_claimed_as_ever(job_store: JobStore) -> None:
    job_id = add_job(job_store).id
    job_store.redis.client.hdel(job_store.redis.key("job", job_id), "inputs")
    assert claim(job_store, job_id).attempt == 1
