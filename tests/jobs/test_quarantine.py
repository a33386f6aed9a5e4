"""Unreadable records affect their owner alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import redis

from jobs.models import DeliveryAttempt, ErrorInfo, Job, JobStatus
from jobs.names import new_job_id
from jobs.store import (
    IdempotencyKey,
    JobNotFoundError,
    JobStore,
    Origin,
    QuotaExceededError,
    ReceiverRules,
    RecordNotStorableError,
    RecordUnreadableError,
)
from jobs.store.keys import ApiKey, Scope, digest_of, key_id_of, new_key_text
from tests.jobs.making import (
    EVALUATION,
    HOOK,
    RENDER,
    RETENTION_S,
    add_job,
    claim,
    result_of,
    spec_of,
    start_job,
    succeed,
    worker_info,
)

OWNER = "ab" * 8
RULES = ReceiverRules(slots=10, hold_s=30)
Break = Callable[[str], None]


def deep(levels: int) -> str:
    return '{"a": ' * levels + "1" + "}" * levels


@pytest.fixture(params=["too deep", "no JSON", "a field less", "a number less", "no UTF-8", "no hash"])
def spoil(request: pytest.FixtureRequest, job_store: JobStore, redis_client: redis.Redis) -> Break:
    """Makes the record of a job unreadable, in one of many ways."""

    def spoil(job_id: str) -> None:
        name = job_store.redis.key("job", job_id)
        if request.param == "too deep":
            spec = redis_client.hget(name, "spec")
            redis_client.hset(name, "spec", spec.replace('"metadata":{}', f'"metadata":{deep(199)}'))
            assert redis_client.hget(name, "spec") != spec
        elif request.param == "no JSON":
            redis_client.hset(name, "spec", "{")
        elif request.param == "a field less":
            redis_client.hdel(name, "created_ms")
        elif request.param == "a number less":
            redis_client.hdel(name, "attempt")
        elif request.param == "no UTF-8":
            redis_client.hset(name, "request_id", b"\xff")
        else:
            redis_client.delete(name)
            redis_client.set(name, "?")

    return spoil


def owned(store: JobStore, **request: object) -> Job:
    return store.jobs.create(new_job_id(), spec_of(**request), max_attempts=3, origin=Origin(OWNER, 100)).job


def add_key(store: JobStore, key_id: str = OWNER) -> ApiKey:
    key = ApiKey(
        id=key_id,
        name="n",
        digest=digest_of("x"),
        scopes=frozenset({Scope.READ}),
        created_at=datetime.now(UTC),
    )
    store.keys.add(key)
    return key


def assert_set_aside(store: JobStore, job_id: str) -> None:
    with pytest.raises(RecordUnreadableError):
        store.jobs.get(job_id)
    assert [(record.kind, record.id) for record in store.quarantine.records()] == [("job", job_id)]
    assert store.quarantine.size() == 1
    assert store.counters.tally().counts["quarantined"] == {"job": 1}


def test_lists_skip_it(job_store: JobStore, spoil: Break) -> None:
    add_key(job_store)
    first, broken, last = (owned(job_store) for _ in range(3))
    spoil(broken.id)
    for owner in (None, OWNER):
        for status in (None, JobStatus.QUEUED):
            page = job_store.jobs.page(status=status, cursor=None, limit=10, owner=owner)
            assert [job.id for job in page.jobs] == [last.id, first.id]
    assert_set_aside(job_store, broken.id)
    assert job_store.jobs.count_by_status()[JobStatus.QUEUED] == 2
    assert job_store.jobs.queue_depths() == {0: 0, 1: 2, 2: 0}
    assert job_store.jobs.count_live(OWNER) == 2, "its owner's quota is free again"
    assert job_store.jobs.queue_position(last.id) == 2


def test_the_outbox_serves_the_others(job_store: JobStore, spoil: Break) -> None:
    broken, good = add_job(job_store), add_job(job_store)
    spoil(broken.id)
    assert [job.id for job in job_store.jobs.unsent(0.0)] == [good.id]
    assert_set_aside(job_store, broken.id)


def test_lost_messages_of_the_others_are_sent_again(job_store: JobStore, spoil: Break) -> None:
    broken, good = add_job(job_store), add_job(job_store)
    for job in (broken, good):
        job_store.jobs.mark_message_sent(job.id)
    spoil(broken.id)
    assert [job.id for job in job_store.jobs.stranded(1, 0.0)] == [good.id]
    assert_set_aside(job_store, broken.id)


def test_expired_leases_of_the_others_are_found(job_store: JobStore, spoil: Break) -> None:
    broken, good = start_job(job_store, lease_s=-1.0), start_job(job_store, lease_s=-0.5)
    spoil(broken.job_id)
    assert [job.id for job in job_store.jobs.requeue_lost()] == [good.job_id]
    assert_set_aside(job_store, broken.job_id)
    assert job_store.jobs.requeue_lost() == []


def test_deadlines_of_the_others_are_enforced(job_store: JobStore, redis_client: redis.Redis, spoil: Break) -> None:
    broken, good = add_job(job_store, expires_in_s=3600), add_job(job_store, expires_in_s=3600)
    for number, job in enumerate((broken, good)):
        redis_client.zadd(job_store.redis.key("deadlines"), {job.id: number + 1})
    spoil(broken.id)
    assert [job.id for job in job_store.jobs.fail_past_deadline(RETENTION_S)] == [good.id]
    with pytest.raises(RecordUnreadableError):
        job_store.jobs.get(broken.id)
    with pytest.raises(JobNotFoundError):
        job_store.jobs.request_cancel(broken.id, retention_s=RETENTION_S)
    assert job_store.jobs.get(good.id).status is JobStatus.FAILED


def test_a_worker_that_finds_it_takes_the_next_job(job_store: JobStore, spoil: Break) -> None:
    broken, good = add_job(job_store), add_job(job_store)
    spoil(broken.id)
    with pytest.raises(RecordUnreadableError):  # first call of a render process
        job_store.jobs.get(broken.id)
    assert job_store.jobs.claim(broken.id, "w", 30.0) is None
    assert claim(job_store, good.id).attempt == 1


def test_a_page_full_of_them_hides_no_other_job(job_store: JobStore, redis_client: redis.Redis) -> None:
    for _ in range(5):
        redis_client.hset(job_store.redis.key("job", add_job(job_store).id), "spec", "{")
    for _ in range(5):  # no record at all
        redis_client.delete(job_store.redis.key("job", add_job(job_store).id))
    good = add_job(job_store)
    found = [job_store.jobs.unsent(0.0, limit=5) for _ in range(3)]
    assert [[job.id for job in jobs] for jobs in found] == [[], [], [good.id]]


def test_its_webhooks_are_no_longer_due(job_store: JobStore, spoil: Break) -> None:
    lease = start_job(job_store, webhook_url=HOOK)
    succeed(job_store, lease)
    assert len(job_store.webhooks.due()) == 1
    spoil(lease.job_id)
    with pytest.raises(RecordUnreadableError):
        job_store.jobs.get(lease.job_id)
    assert job_store.webhooks.due() == []


def test_its_idempotency_key_can_be_used_again(job_store: JobStore, spoil: Break) -> None:
    key = IdempotencyKey("k", "f", 60)
    broken = job_store.jobs.create(new_job_id(), spec_of(), max_attempts=3, idempotency=key).job
    spoil(broken.id)
    again = spec_of(seed=1)
    try:
        made = job_store.jobs.create(new_job_id(), again, max_attempts=3, idempotency=key)
    except RecordUnreadableError:  # raised once: the first job is gone
        made = job_store.jobs.create(new_job_id(), again, max_attempts=3, idempotency=key)
    assert made.is_new
    assert_set_aside(job_store, broken.id)


def test_it_is_deleted_with_everything_attached_to_it(
    job_store: JobStore, redis_client: redis.Redis, spoil: Break
) -> None:
    before = set(redis_client.scan_iter(job_store.redis.prefix + "*"))
    lease = start_job(job_store, webhook_url=HOOK)
    succeed(job_store, lease)
    spoil(lease.job_id)
    job_store.jobs.page(status=None, cursor=None, limit=10)
    assert job_store.quarantine.records(older_than_s=60) == []
    job_store.quarantine.drop("job", lease.job_id)
    with pytest.raises(JobNotFoundError) as gone:
        job_store.jobs.get(lease.job_id)
    assert not isinstance(gone.value, RecordUnreadableError)
    with pytest.raises(JobNotFoundError):
        job_store.quarantine.drop("job", lease.job_id)
    left = {name for name in redis_client.scan_iter(job_store.redis.prefix + "*") if lease.job_id in name}
    assert left == before == set()
    assert job_store.quarantine.records() == []


def test_the_owner_is_known_and_the_fault_is_logged_once(
    job_store: JobStore, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    job = owned(job_store, metadata={"secret": "of the caller"})
    redis_client.hset(job_store.redis.key("job", job.id), "spec", '{"secret": "of the caller"}')
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            with pytest.raises(RecordUnreadableError) as caught:
                job_store.jobs.get(job.id)
            assert caught.value.owner == OWNER
    assert len([line for line in caplog.messages if job.id in line]) == 1
    (record,) = job_store.quarantine.records()
    assert record.owner == OWNER
    assert record.reason == "JobSpec.video: missing"
    assert "of the caller" not in caplog.text


def test_an_error_of_the_server_sets_no_record_aside(job_store: JobStore, redis_client: redis.Redis) -> None:
    """A read-only server refuses every script."""
    lease = start_job(job_store, lease_s=-1.0)
    redis_client.config_set("min-replicas-to-write", "1")
    try:
        with pytest.raises(redis.ResponseError):
            job_store.jobs.requeue_lost()
    finally:
        redis_client.config_set("min-replicas-to-write", "0")
    assert job_store.quarantine.size() == 0
    assert [job.id for job in job_store.jobs.requeue_lost()] == [lease.job_id]


@pytest.mark.parametrize("content", ["{", "no JSON", '{"id": 5}', deep(300), b"\xff", "hash"])
def test_keys_and_workers(job_store: JobStore, redis_client: redis.Redis, content: str | bytes) -> None:
    good, worker = add_key(job_store, "cd" * 8), worker_info("good")
    add_key(job_store)
    job_store.workers.report(worker, 60)
    job_store.workers.report(worker_info("broken"), 60)
    for name in (job_store.redis.key("api_key", OWNER), job_store.redis.key("worker", "broken")):
        redis_client.delete(name)
        if content == "hash":
            redis_client.hset(name, "a", "b")
        else:
            redis_client.set(name, content)
    for _ in range(2):
        assert job_store.keys.all() == [good]
        assert job_store.keys.find(OWNER) is None
        assert job_store.workers.live() == [worker]
    found = {(record.kind, record.id) for record in job_store.quarantine.records()}
    assert found == {("api_key", OWNER)} | ({("worker", "broken")} if content != "hash" else set())
    for kind, record_id in found:
        job_store.quarantine.drop(kind, record_id)
    assert job_store.keys.all() == [good]
    assert job_store.quarantine.size() == 0


def two_jobs_told(job_store: JobStore) -> tuple[list[str], list[str]]:
    """Ids of two jobs that are over, and of the one delivery of each."""
    jobs = [start_job(job_store, webhook_url=HOOK) for _ in range(2)]
    for lease in jobs:
        succeed(job_store, lease)
    deliveries = [each.id for lease in jobs for each in job_store.webhooks.deliveries(lease.job_id)]
    return [lease.job_id for lease in jobs], deliveries


def test_a_delivery(job_store: JobStore, redis_client: redis.Redis) -> None:
    jobs, (broken, good) = two_jobs_told(job_store)
    redis_client.hset(job_store.redis.key("delivery", broken), "event", "job.unheard_of")
    assert job_store.webhooks.deliveries(jobs[0]) == []
    assert [(record.kind, record.id) for record in job_store.quarantine.records()] == [("delivery", broken)]
    assert [each.id for each in job_store.webhooks.take(10, RULES)] == [good]
    assert broken not in job_store.webhooks.due()
    assert [each.id for each in job_store.webhooks.undelivered(state="pending", cursor=None, limit=10).deliveries] == [
        good
    ]


@pytest.mark.parametrize("content", ["event", "text", "gone"])
def test_a_delivery_that_the_dispatcher_takes(job_store: JobStore, redis_client: redis.Redis, content: str) -> None:
    _, (broken, good) = two_jobs_told(job_store)
    record = job_store.redis.key("delivery", broken)
    if content == "event":
        redis_client.hset(record, "event", "job.unheard_of")
    else:
        redis_client.delete(record)
        if content == "text":
            redis_client.set(record, "text")
    # A receiver that has not answered yet gets one delivery at a time
    rules = replace(RULES, hold_s=0.05)
    taken: set[str] = set()
    for _ in range(20):
        taken |= {each.id for each in job_store.webhooks.take(10, rules)}
        time.sleep(0.02)
    assert taken == {good}
    assert broken not in job_store.webhooks.due()
    assert [(record.kind, record.id) for record in job_store.quarantine.records()] == [("delivery", broken)]
    assert [each.id for each in job_store.webhooks.undelivered(state="pending", cursor=None, limit=10).deliveries] == [
        good
    ]


@pytest.mark.parametrize("content", ["opened_ms", "receiver", "text"])
def test_deliveries_of_the_others_expire_in_time(job_store: JobStore, redis_client: redis.Redis, content: str) -> None:
    _, (broken, good) = two_jobs_told(job_store)
    record = job_store.redis.key("delivery", broken)
    if content == "text":
        redis_client.delete(record)
        redis_client.set(record, "text")
    else:
        redis_client.hdel(record, content)
    ended = [delivery_id for _ in range(2) for delivery_id in job_store.webhooks.expire(0.0, limit=1)]
    assert ended == [good], "the broken one stood at the head of the list"


def test_deleting_the_record_of_a_job_frees_its_bytes(job_store: JobStore, redis_client: redis.Redis) -> None:
    job = owned(job_store)
    redis_client.hset(job_store.redis.key("held"), job.id, 1000)
    redis_client.hset(job_store.redis.key("holders"), job.id, OWNER)
    redis_client.hset(job_store.redis.key("stored"), mapping={OWNER: 1000, "all": 1000})
    redis_client.hset(job_store.redis.key("job", job.id), "spec", "{")
    assert job_store.jobs.unsent(0.0) == []
    job_store.quarantine.drop("job", job.id)
    for line in ("held", "holders", "stored"):
        assert redis_client.hgetall(job_store.redis.key(line)) == {}


def test_an_event_a_count_and_a_mean(job_store: JobStore, redis_client: redis.Redis) -> None:
    lease = start_job(job_store)
    redis_client.xadd(job_store.redis.key("events", lease.job_id), {"event": "job.unheard_of", "at": "x"})
    succeed(job_store, lease)
    assert [event.event for event in job_store.jobs.events(lease.job_id, after=None)] == [
        "job.queued",
        "job.started",
        "job.succeeded",
    ]
    redis_client.hset(job_store.redis.key("counters"), "finished:odd", "many")
    assert job_store.counters.tally().counts["finished"] == {"succeeded": 1}
    redis_client.set(job_store.redis.key("mean_run_ms"), "long")
    assert job_store.jobs.mean_run_s() is None
    (estimate,) = job_store.jobs.queue_estimates([add_job(job_store).id])
    assert estimate.mean_run_s is None


def test_a_record_of_a_newer_version_is_read(job_store: JobStore, redis_client: redis.Redis) -> None:
    """Unknown fields are ignored."""
    job, key = add_job(job_store), add_key(job_store)
    name = job_store.redis.key("job", job.id)
    spec = redis_client.hget(name, "spec")
    redis_client.hset(name, "spec", '{"added": 1, ' + spec[1:].replace('"request":{', '"request":{"added":1,'))
    redis_client.set(job_store.redis.key("api_key", key.id), '{"added": 1, ' + key.model_dump_json()[1:])
    assert job_store.jobs.get(job.id) == job
    assert job_store.keys.all() == [key]


class TestNothingUnreadableIsStored:
    @pytest.mark.parametrize(
        "metadata",
        [{"a": "\ud800"}, {"a": float("nan"), "\udfff": 1}, "deep"],
    )
    def test_a_submission(self, job_store: JobStore, redis_client: redis.Redis, metadata: object) -> None:
        nested: object = 1
        for _ in range(199):
            nested = {"a": nested}
        spec = spec_of(metadata=nested if metadata == "deep" else metadata)
        with pytest.raises(RecordNotStorableError):
            job_store.jobs.create(new_job_id(), spec, max_attempts=3)
        assert list(redis_client.scan_iter(job_store.redis.prefix + "*")) == []

    def test_a_result(self, job_store: JobStore) -> None:
        """A NaN duration would be written as null, which readers refuse."""
        lease = start_job(job_store)
        with pytest.raises(RecordNotStorableError):
            job_store.jobs.succeed(
                lease,
                result=result_of(lease).model_copy(update={"duration_s": float("nan")}),
                render=RENDER,
                evaluation=EVALUATION,
                retention_s=RETENTION_S,
            )
        assert job_store.jobs.get(lease.job_id).status is JobStatus.RUNNING
        error = ErrorInfo(code="internal_error", message="Its result could not be stored.")
        assert job_store.jobs.fail(lease, error, retention_s=RETENTION_S).error == error

    def test_a_worker_and_a_key(self, job_store: JobStore) -> None:
        with pytest.raises(RecordNotStorableError):
            job_store.workers.report(worker_info("w").model_copy(update={"versions": {"a": "\ud800"}}), 60)
        key = add_key(job_store, str(key_id_of(new_key_text())))
        with pytest.raises(RecordNotStorableError):
            job_store.keys.add(key.model_copy(update={"name": "\ud800"}))
        assert job_store.workers.live() == []


def test_a_webhook_attempt_is_read_back_too(job_store: JobStore) -> None:
    succeed(job_store, start_job(job_store, webhook_url=HOOK))
    (delivery_id,) = job_store.webhooks.due()
    attempt = DeliveryAttempt(at=datetime.now(UTC), error="\ud800")
    with pytest.raises(RecordNotStorableError):
        job_store.webhooks.record_attempt(delivery_id, attempt, state="given_up", retry_in_s=None)


def test_an_unreadable_record_frees_its_place_in_the_quota(job_store: JobStore, redis_client: redis.Redis) -> None:
    """Also if its owner is unknown."""
    add_key(job_store)
    origin = Origin(OWNER, 1)
    job = job_store.jobs.create(new_job_id(), spec_of(), max_attempts=3, origin=origin).job
    with pytest.raises(QuotaExceededError):
        job_store.jobs.create(new_job_id(), spec_of(), max_attempts=3, origin=origin)
    redis_client.delete(job_store.redis.key("job", job.id))
    redis_client.set(job_store.redis.key("job", job.id), "?")
    assert job_store.jobs.unsent(0.0) == []
    assert job_store.jobs.create(new_job_id(), spec_of(), max_attempts=3, origin=origin).is_new
