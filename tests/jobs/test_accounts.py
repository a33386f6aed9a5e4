"""Accounts in the store: keys that come and go, records of earlier versions, and usage by month."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
import redis

from jobs.models import JobStatus
from jobs.names import new_job_id
from jobs.store import (
    AccountNotFoundError,
    IdempotencyKey,
    JobStore,
    KeyNotFoundError,
    KeyRevokedError,
    Origin,
    TooManyKeysError,
    UnknownCursorError,
)
from jobs.store.base import _source
from jobs.store.keys import MAX_KEYS, ApiKey, MonthUsage, Scope, digest_of, key_id_of, new_key_text
from jobs.store.types import Lease
from retalking_core.vocabulary.engines import EngineInfo
from tests.jobs.making import EVALUATION, RENDER, RETENTION_S, claim, result_of, spec_of, succeed, worker_info

SCOPES = frozenset({Scope.SUBMIT, Scope.READ})


def key_of_an_earlier_version(store: JobStore, **limits: object) -> ApiKey:
    """As it lies in a Redis of the time when keys owned jobs."""
    text = new_key_text()
    key_id, created_at = str(key_id_of(text)), datetime(2026, 1, 2, tzinfo=UTC)
    fields = {
        "id": key_id,
        "name": "old",
        "digest": digest_of(text),
        "scopes": ["read", "submit"],
        "requests_per_minute": None,
        "live_jobs": None,
        "max_priority": 2,
        "stored_bytes": None,
        "created_at": created_at.isoformat(),
        "revoked_at": None,
    }
    store.redis.client.set(store.redis.key("api_key", key_id), json.dumps(fields | limits))
    store.redis.client.zadd(store.redis.key("api_keys"), {key_id: int(created_at.timestamp() * 1000)})
    return store.keys.get(key_id)


def start(store: JobStore, owner: str, worker: str = "w1") -> Lease:
    job = store.jobs.create(new_job_id(), spec_of(), max_attempts=2, origin=Origin(owner, 100)).job
    return claim(store, job.id, worker)


def usage_of(store: JobStore, owner: str) -> MonthUsage:
    ((month,),) = store.usage.months([owner], 1)
    return month


def test_a_new_account_has_the_id_and_name_of_its_first_key(job_store: JobStore) -> None:
    first, text = job_store.keys.create("studio", SCOPES, live_jobs=7, max_priority=2)
    assert (first.id, first.account, first.matches(text)) == (key_id_of(text), first.id, True)
    account = job_store.accounts.get(first.id)
    assert (account.name, account.live_jobs, account.stored_bytes) == ("studio", 7, None)
    second, _ = job_store.keys.create("ci", frozenset({Scope.READ}), account=account.id)
    assert (second.account, second.max_priority) == (account.id, 1)
    assert job_store.keys.of_account(account.id) == [first, second]
    assert job_store.accounts.page(after=None, limit=9) == ([account], None)
    with pytest.raises(AccountNotFoundError):
        job_store.keys.create("x", SCOPES, account=second.id)
    with pytest.raises(AccountNotFoundError):
        job_store.keys.create("x", SCOPES, account="../x")


@pytest.mark.parametrize("first_seen_by", ["a call", "a list", "a second key"])
def test_a_key_of_an_earlier_version_is_its_own_account(job_store: JobStore, first_seen_by: str) -> None:
    old = key_of_an_earlier_version(job_store, live_jobs=3, requests_per_minute=11, stored_bytes=4096)
    memory = IdempotencyKey("k", "print", 60)
    job = job_store.jobs.create(
        new_job_id(), spec_of(), max_attempts=1, idempotency=memory, origin=Origin(old.id, 3)
    ).job
    assert (old.account, old.max_priority, old.is_valid) == (old.id, 2, True)
    if first_seen_by == "a call":
        assert job_store.accounts.find(old.account) is not None
    elif first_seen_by == "a list":
        assert [account.id for account in job_store.accounts.page(after=None, limit=9)[0]] == [old.id]
    second, _ = job_store.keys.create("new", SCOPES, account=old.id)
    account = job_store.accounts.get(old.id)
    assert (account.name, account.live_jobs, account.requests_per_minute, account.stored_bytes) == ("old", 3, 11, 4096)
    assert [key.id for key in job_store.keys.of_account(old.id)] == [old.id, second.id]
    job_store.keys.revoke(old.id)
    assert job_store.keys.get(second.id).account == old.id
    assert [each.id for each in job_store.jobs.page(status=None, cursor=None, limit=5, owner=second.account).jobs] == [
        job.id
    ]
    again = job_store.jobs.create(
        new_job_id(), spec_of(), max_attempts=1, idempotency=memory, origin=Origin(second.account, 3)
    )
    assert (again.job.id, again.is_new) == (job.id, False)


def test_a_key_of_the_present_version_is_no_account_of_its_own(job_store: JobStore) -> None:
    first, _ = job_store.keys.create("a", SCOPES)
    second, _ = job_store.keys.create("b", SCOPES, account=first.id)
    assert job_store.accounts.find(second.id) is None
    assert [account.id for account in job_store.accounts.page(after=None, limit=9)[0]] == [first.id]


def test_an_unreadable_account_does_not_get_the_limits_of_the_deployment(job_store: JobStore) -> None:
    key, _ = job_store.keys.create("a", SCOPES, live_jobs=1)
    job_store.redis.client.set(job_store.redis.key("account", key.id), "{")
    for _ in range(2):
        assert job_store.accounts.find(key.id) is None
    assert [(each.kind, each.id) for each in job_store.quarantine.records()] == [("account", key.id)]
    job_store.quarantine.drop("account", key.id)
    assert job_store.quarantine.size() == 0


def test_a_key_is_read_with_its_account_in_one_round_trip(job_store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    key, _ = job_store.keys.create("a", SCOPES)
    second, _ = job_store.keys.create("b", SCOPES, account=key.id)
    job_store.keys.find_with_account(key.id)  # loads the script
    trips = []
    send = redis.Connection.send_packed_command
    monkeypatch.setattr(
        redis.Connection, "send_packed_command", lambda *args, **more: [trips.append(1), send(*args, **more)]
    )
    assert job_store.keys.find_with_account(second.id) == (second, job_store.accounts.get(key.id))
    assert len(trips) == 3  # two of accounts.get
    revoked = job_store.keys.revoke(second.id)
    assert job_store.keys.find_with_account(second.id)[0] == revoked


def test_reading_a_key_with_its_account_copes_with_every_record(job_store: JobStore) -> None:
    assert job_store.keys.find_with_account("0" * 16) == (None, None)
    assert job_store.keys.find_with_account("no id") == (None, None)
    old = key_of_an_earlier_version(job_store, live_jobs=3, requests_per_minute=11, stored_bytes=4096)
    key, account = job_store.keys.find_with_account(old.id)
    assert (key, account.live_jobs) == (old, 3)
    client, broken = job_store.redis.client, [job_store.keys.create("a", SCOPES)[0] for _ in range(4)]
    client.set(job_store.redis.key("api_key", broken[0].id), "{")
    client.delete(job_store.redis.key("api_key", broken[1].id))
    client.hset(job_store.redis.key("api_key", broken[1].id), "no", "text")
    client.set(job_store.redis.key("account", broken[2].id), "{")
    client.set(job_store.redis.key("api_key", broken[3].id), '"no object"')
    found = [job_store.keys.find_with_account(each.id) for each in broken]
    assert found == [(None, None), (None, None), (broken[2], None), (None, None)]
    assert {(each.kind, each.id) for each in job_store.quarantine.records()} == {
        ("api_key", broken[0].id),
        ("api_key", broken[1].id),
        ("account", broken[2].id),
        ("api_key", broken[3].id),
    }


def test_rotating(job_store: JobStore) -> None:
    old, _ = job_store.keys.create("a", SCOPES, max_priority=2)
    new, text = job_store.keys.rotate(old.id, 60)
    assert new.matches(text)
    assert (new.account, new.scopes, new.max_priority, new.name) == (old.account, SCOPES, 2, "a")
    ending = job_store.keys.get(old.id)
    assert ending.is_valid
    assert ending.revoked_at is not None
    assert timedelta(seconds=50) < ending.revoked_at - datetime.now(UTC) <= timedelta(seconds=60)
    job_store.keys.rotate(old.id, 3600)
    assert job_store.keys.get(old.id).revoked_at == ending.revoked_at, "a second rotation does not prolong it"
    assert not job_store.keys.revoke(old.id).is_valid
    with pytest.raises(KeyRevokedError):
        job_store.keys.rotate(old.id, 0)
    job_store.keys.rotate(new.id, 0)
    assert not job_store.keys.get(new.id).is_valid
    for unknown in ("0" * 16, "../x"):
        with pytest.raises(KeyNotFoundError):
            job_store.keys.rotate(unknown, 0)


def test_keys_of_an_account_are_bounded(job_store: JobStore) -> None:
    """Old revoked keys make room; valid ones do not."""
    first, _ = job_store.keys.create("a", SCOPES)
    for number in range(MAX_KEYS - 1):
        job_store.keys.create(str(number), SCOPES, account=first.id)
    with pytest.raises(TooManyKeysError):
        job_store.keys.create("one too many", SCOPES, account=first.id)
    with pytest.raises(TooManyKeysError):
        job_store.keys.rotate(first.id, 60)
    job_store.keys.revoke(first.id)
    last, _ = job_store.keys.create("last", SCOPES, account=first.id)
    keys = job_store.keys.of_account(first.id)
    assert len(keys) == MAX_KEYS == len(job_store.keys.all())
    assert keys[-1] == last
    assert job_store.keys.find(first.id) is None
    assert job_store.accounts.get(first.id).name == "a", "the account outlives its first key"


def test_pages(job_store: JobStore) -> None:
    keys = [job_store.keys.create(str(number), SCOPES)[0].id for number in range(3)]
    found, cursor = job_store.keys.page(after=None, limit=2)
    rest, end = job_store.keys.page(after=cursor, limit=2)
    assert (sorted(key.id for key in found + rest), len(found), end) == (sorted(keys), 2, None)
    assert job_store.accounts.page(after=None, limit=3)[1] is None
    with pytest.raises(UnknownCursorError):
        job_store.keys.page(after="0" * 16, limit=2)


def test_outcomes_video_and_bytes_are_counted_by_account(job_store: JobStore) -> None:
    succeed(job_store, start(job_store, "a"))
    job_store.jobs.cancel(start(job_store, "a"), retention_s=RETENTION_S)
    waiting = job_store.jobs.create(new_job_id(), spec_of(), max_attempts=1, origin=Origin("b", 9)).job
    job_store.jobs.request_cancel(waiting.id, retention_s=RETENTION_S)
    mine, other, nobody = (usage_of(job_store, owner) for owner in ("a", "b", ""))
    assert mine.month == datetime.now(UTC).strftime("%Y-%m")
    assert dict(mine.jobs) == {"succeeded": 1, "failed": 0, "canceled": 1}
    assert (mine.video_s, mine.result_bytes) == (2.0, 1234)
    assert dict(other.jobs) == {"succeeded": 0, "failed": 0, "canceled": 1}
    assert (other.worker_s, other.video_s) == (0, 0)
    assert dict(nobody.jobs) == {"succeeded": 0, "failed": 0, "canceled": 0}
    totals = job_store.redis.key("usage", f"a:{mine.month}")
    assert 759 * 86400 < job_store.redis.client.ttl(totals) <= 760 * 86400
    assert len({month.month for month in job_store.usage.months(["a"], 24)[0]}) == 24
    with pytest.raises(ValueError, match="1 to 24"):
        job_store.usage.months(["a"], 25)


def test_a_repeated_end_counts_once(job_store: JobStore) -> None:
    lease = start(job_store, "a")
    for _ in range(3):
        succeed(job_store, lease)
    assert usage_of(job_store, "a").jobs.succeeded == 1


def test_every_attempt_counts_and_the_gpu_apart(job_store: JobStore) -> None:
    """Returned, lost and evaluating workers too; time on a worker with a CUDA device is in both sums."""
    engine = EngineInfo(name="v", version="1", device="cuda:0", description="", unsupported_options={})
    job_store.workers.report(worker_info("gpu").model_copy(update={"engines": [engine]}), 60)
    lease = start(job_store, "a", "gpu")
    time.sleep(0.06)
    job_store.jobs.release(lease, count_attempt=True)
    first = usage_of(job_store, "a")
    assert first.gpu_s == first.worker_s >= 0.06
    lease = claim(job_store, lease.job_id, "cpu", lease_s=0.05)
    time.sleep(0.12)
    job_store.jobs.requeue_lost()
    second = usage_of(job_store, "a")
    assert (second.gpu_s, second.jobs.failed) == (first.gpu_s, 1)
    assert second.worker_s - first.worker_s == pytest.approx(0.05), "a lost worker counts until its lease ended"

    lease = start(job_store, "b", "gpu")
    job_store.jobs.succeed(
        lease, result=result_of(lease), render=RENDER, evaluation=None, retention_s=RETENTION_S, evaluation_lease_s=9
    )
    before = usage_of(job_store, "b").gpu_s
    job_store.jobs.abandon(lease.job_id, "gpu")
    evaluation = job_store.evaluations.claim(lease.job_id, "gpu", 30)
    assert evaluation is not None
    time.sleep(0.05)
    job_store.evaluations.finish(evaluation, EVALUATION)
    assert usage_of(job_store, "b").gpu_s - before >= 0.05


def test_usage_outlives_the_job(job_store: JobStore) -> None:
    lease = start(job_store, "a")
    succeed(job_store, lease)
    job_store.jobs.delete(lease.job_id)
    assert usage_of(job_store, "a").jobs.succeeded == 1
    assert job_store.jobs.count_by_status()[JobStatus.SUCCEEDED] == 0


def test_the_month_of_a_time(redis_client: redis.Redis) -> None:
    """Against the calendar of Python: the ends of all months of a century and a half, leap years among them."""
    script = redis_client.register_script(
        _source("release").split("-- A worker returns")[0]
        + "\nlocal found = {}\nfor i, ms in ipairs(ARGV) do found[i] = month_of(tonumber(ms)) end\nreturn found"
    )
    starts = [datetime(year, month, 1, tzinfo=UTC) for year in range(1970, 2121) for month in range(1, 13)]
    for shift in (timedelta(0), timedelta(milliseconds=-1), timedelta(days=27, hours=23)):
        times = [at + shift for at in starts if (at + shift).year >= 1970]
        found = script(keys=["p:"], args=[round(at.timestamp() * 1000) for at in times])
        assert found == [at.strftime("%Y-%m") for at in times]
