"""API keys in the store: stored fields, rate limits, quotas, and separation of owners."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import redis

from jobs.models import Job, JobStatus
from jobs.names import new_job_id
from jobs.store import IdempotencyKey, JobStore, KeyNotFoundError, Origin, QuotaExceededError
from jobs.store.keys import ApiKey, Scope, digest_of, key_id_of, new_key_text
from tests.jobs.making import claim, spec_of, succeed


def key_of(text: str, **changes: object) -> ApiKey:
    fields = {
        "id": key_id_of(text),
        "name": "someone",
        "digest": digest_of(text),
        "scopes": {Scope.READ},
        "created_at": datetime.now(UTC),
    }
    return ApiKey(**(fields | changes))


def submit(store: JobStore, owner: str, live_jobs: int = 10, idempotency: IdempotencyKey | None = None) -> Job:
    origin = Origin(owner, live_jobs, "req_1", "00-trace")
    return store.jobs.create(new_job_id(), spec_of(), max_attempts=1, idempotency=idempotency, origin=origin).job


def test_format_of_a_key() -> None:
    texts = {new_key_text() for _ in range(100)}
    assert len({key_id_of(text) for text in texts}) == 100
    for text in texts:
        kind, key_id, secret = text.split("_")
        assert (kind, len(key_id), len(secret)) == ("rtk", 16, 64)
    for wrong in ("", "rtk_", "rtk_" + "0" * 81, texts.pop()[:-1], texts.pop() + "0", texts.pop().upper()):
        assert key_id_of(wrong) is None


def test_only_the_hash_is_kept(job_store: JobStore, redis_client: redis.Redis) -> None:
    text = new_key_text()
    key = key_of(text)
    job_store.keys.add(key)
    assert key.digest == hashlib.sha256(text.encode()).hexdigest()
    found = job_store.keys.find(key.id)
    assert found == key
    assert found.matches(text)
    assert not found.matches(text[:-1] + ("0" if text[-1] != "0" else "1"))
    secret = text.split("_")[2]
    for name in redis_client.scan_iter(f"{job_store.redis.prefix}*"):
        assert secret not in str(redis_client.dump(name)), name
    assert "digest" not in repr(found)


def test_revoking(job_store: JobStore) -> None:
    key = key_of(new_key_text())
    job_store.keys.add(key)
    ended = job_store.keys.revoke(key.id)
    assert ended.revoked_at is not None
    assert job_store.keys.revoke(key.id) == ended
    assert job_store.keys.all() == [ended]
    with pytest.raises(KeyNotFoundError):
        job_store.keys.revoke("0" * 16)


def test_a_minute_of_requests_then_one_at_a_time(job_store: JobStore) -> None:
    """600 per minute: one more passes every 0.1 s, and no window boundary allows twice the rate."""
    began, passed = time.monotonic(), 0
    while (refused := job_store.keys.consume_token("k", 600)).is_allowed:
        passed += 1
    assert 600 <= passed <= 601 + 10 * (time.monotonic() - began)
    assert refused.left == 0
    assert 0 < refused.retry_in_s <= 0.1
    assert 59 < refused.full_in_s <= 60
    time.sleep(refused.retry_in_s)
    assert job_store.keys.consume_token("k", 600).is_allowed
    assert job_store.keys.consume_token("other", 600).left == 599, "each key has its own"


def test_concurrent_requests_stay_within_the_rate_limit(job_store: JobStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        allowed = sum(pool.map(lambda _: job_store.keys.consume_token("k", 20).is_allowed, range(100)))
    assert 20 <= allowed <= 21, "20, and one more if the test took 3 s"


def test_the_quota_holds_for_concurrent_submissions(job_store: JobStore) -> None:
    def one(_: int) -> bool:
        try:
            submit(job_store, "k", live_jobs=5)
        except QuotaExceededError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one, range(40))) == 5
    assert job_store.jobs.count_live("k") == 5
    submit(job_store, "other", live_jobs=5)


def test_a_finished_job_frees_its_place_in_the_quota(job_store: JobStore) -> None:
    first, second = submit(job_store, "k", 2), submit(job_store, "k", 2)
    with pytest.raises(QuotaExceededError):
        submit(job_store, "k", 2)
    job_store.jobs.request_cancel(first.id, retention_s=60)
    third = submit(job_store, "k", 2)
    for _ in range(2):  # two are live again; a requeued job is still live
        lease = claim(job_store, second.id)
        job_store.jobs.release(lease, count_attempt=False)
        assert job_store.jobs.count_live("k") == 2
    succeed(job_store, claim(job_store, third.id))
    assert job_store.jobs.count_live("k") == 1


def test_an_idempotent_repetition_succeeds_at_the_quota(job_store: JobStore) -> None:
    memory = IdempotencyKey("again", "print", 60)
    first = submit(job_store, "k", 1, memory)
    assert submit(job_store, "k", 1, memory).id == first.id


def test_two_owners_may_use_the_same_idempotency_key(job_store: JobStore) -> None:
    made = {submit(job_store, owner, 9, IdempotencyKey("same", owner, 60)).id for owner in ("a", "b", "")}
    assert len(made) == 3


def test_lists_contain_only_jobs_of_the_owner(job_store: JobStore) -> None:
    mine = [submit(job_store, "a").id for _ in range(3)]
    others = [submit(job_store, owner).id for owner in ("b", "")]
    job_store.jobs.request_cancel(mine[0], retention_s=60)

    def listed(owner: str | None, status: JobStatus | None = None) -> list[str]:
        return [job.id for job in job_store.jobs.page(status=status, cursor=None, limit=10, owner=owner).jobs]

    assert listed("a") == mine[::-1]
    assert listed("a", JobStatus.QUEUED) == [mine[2], mine[1]]
    assert listed("a", JobStatus.CANCELED) == [mine[0]]
    assert listed("nobody") == []
    assert set(listed(None)) == {*mine, *others}
    page = job_store.jobs.page(status=None, cursor=None, limit=2, owner="a")
    assert [job.id for job in page.jobs] == [mine[2], mine[1]]
    rest = job_store.jobs.page(status=None, cursor=page.next_cursor, limit=2, owner="a")
    assert [job.id for job in rest.jobs] == [mine[0]]
    assert rest.next_cursor is None


def test_a_deleted_job_leaves_nothing_of_its_owner(job_store: JobStore, redis_client: redis.Redis) -> None:
    job = submit(job_store, "a")
    assert (job.owner, job.request_id, job.traceparent) == ("a", "req_1", "00-trace")
    job_store.jobs.request_cancel(job.id, retention_s=60)
    job_store.jobs.delete(job.id)
    for name in redis_client.scan_iter(f"{job_store.redis.prefix}*"):
        kind = redis_client.type(name)
        members = {"zset": lambda n: redis_client.zrange(n, 0, -1), "set": redis_client.smembers}.get(kind)
        assert members is None or job.id not in members(name), name
        assert job.id not in name


def test_uploads_belong_to_their_owner(job_store: JobStore) -> None:
    expires_at = datetime.fromtimestamp(time.time() + 60, UTC)
    job_store.uploads.add("up_1", expires_at, "a")
    job_store.uploads.add("up_2", expires_at)
    seen = {
        (name, owner): job_store.uploads.exists(name, owner) for name in ("up_1", "up_2") for owner in ("a", "b", None)
    }
    assert seen == {
        ("up_1", "a"): True,
        ("up_1", "b"): False,
        ("up_1", None): True,
        ("up_2", "a"): False,
        ("up_2", "b"): False,
        ("up_2", None): True,
    }
    job_store.uploads.drop("up_1")
    assert not job_store.uploads.exists("up_1")
