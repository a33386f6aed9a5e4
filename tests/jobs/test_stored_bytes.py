"""Stored bytes by owner and in total: exact after every outcome, and never above the quota."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime, timedelta

import pytest

from jobs.names import new_job_id, new_upload_id
from jobs.store import ArrivalLostError, ByteQuota, JobStore, Origin, StorageQuotaError
from tests.jobs.making import claim, result_of, spec_of, succeed

OWNER = "0" * 16
AMPLE = ByteQuota(OWNER, 10**12, 10**12)


def arrive(store: JobStore, size_bytes: int, quota: ByteQuota = AMPLE, within_s: float = 60.0) -> str:
    job_id = new_job_id()
    store.uploads.add_arrival(job_id, within_s)
    store.uploads.reserve(job_id, size_bytes, quota)
    return job_id


def create(store: JobStore, job_id: str) -> None:
    origin = Origin(OWNER, live_jobs=100)
    store.jobs.create(job_id, spec_of(), max_attempts=3, origin=origin, arrived=True)


def sums(store: JobStore) -> tuple[int, int]:
    return store.uploads.stored_bytes(OWNER), store.uploads.stored_bytes()


def test_a_job_holds_its_inputs_and_its_result_until_it_is_deleted(job_store: JobStore) -> None:
    job_id = arrive(job_store, 700)
    job_store.uploads.reserve(job_id, 500, AMPLE)  # fewer bytes arrived than were announced
    assert sums(job_store) == (500, 500)
    create(job_store, job_id)
    lease = claim(job_store, job_id)
    assert sums(job_store) == (500, 500)
    for _ in range(2):  # the reply was lost
        succeed(job_store, lease)
    whole = 500 + result_of(lease).size_bytes
    assert sums(job_store) == (whole, whole)
    job_store.jobs.delete(job_id)
    assert sums(job_store) == (0, 0)


def test_discarded_arrivals_free_their_bytes(job_store: JobStore) -> None:
    abandoned, kept = arrive(job_store, 300), arrive(job_store, 20)
    create(job_store, kept)
    job_store.uploads.drop_arrival(abandoned)
    job_store.uploads.drop_arrival(kept)  # too late: the job holds it
    assert sums(job_store) == (20, 20)


def test_quotas_of_an_owner_and_of_all(job_store: JobStore) -> None:
    mine, others = ByteQuota(OWNER, 100, 150), ByteQuota("1" * 16, 100, 150)
    first = arrive(job_store, 90, mine)
    with pytest.raises(StorageQuotaError) as refusal:
        arrive(job_store, 11, mine)
    assert refusal.value.is_owners
    arrive(job_store, 60, others)
    with pytest.raises(StorageQuotaError) as refusal:
        job_store.uploads.reserve(first, 91, mine)
    assert not refusal.value.is_owners
    job_store.uploads.reserve(first, 80, mine)
    assert (sums(job_store), job_store.uploads.stored_bytes("1" * 16)) == ((80, 140), 60)


def test_callers_without_a_key_share_the_common_quota(job_store: JobStore) -> None:
    nobody = ByteQuota("", 1, 100)
    arrive(job_store, 100, nobody)
    with pytest.raises(StorageQuotaError):
        arrive(job_store, 1, nobody)


def test_concurrent_reservations_stay_within_the_quota(job_store: JobStore) -> None:
    """Each reserves 30 of 100 bytes: three fit."""
    outcomes: list[bool] = []

    def ask() -> None:
        try:
            arrive(job_store, 30, ByteQuota(OWNER, 100, 10**9))
            outcomes.append(True)
        except StorageQuotaError:
            outcomes.append(False)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(outcomes) == 3
    assert sums(job_store) == (90, 90)


def test_an_expired_arrival_stays_expired(job_store: JobStore) -> None:
    """The janitor may be deleting its files: no job may be created from them."""
    late = arrive(job_store, 10)
    job_store.uploads.add_arrival(late, 0.0)
    assert not job_store.uploads.renew_arrival(late, 60)
    with pytest.raises(ArrivalLostError):
        job_store.uploads.reserve(late, 20, AMPLE)
    with pytest.raises(ArrivalLostError):
        create(job_store, late)
    assert job_store.uploads.expired_arrivals() == [late]
    job_store.uploads.drop_arrival(late)
    assert sums(job_store) == (0, 0)


def test_a_renewed_arrival_becomes_a_job(job_store: JobStore) -> None:
    slow = arrive(job_store, 10, within_s=5)
    assert job_store.uploads.renew_arrival(slow, 60)
    create(job_store, slow)
    assert not job_store.uploads.renew_arrival(slow, 60)
    assert job_store.uploads.expired_arrivals() == []


def add_upload(store: JobStore, ends_in_s: float) -> str:
    upload_id = new_upload_id()
    store.uploads.add(upload_id, datetime.now(UTC) + timedelta(seconds=ends_in_s), OWNER)
    return upload_id


def test_a_settled_file_belongs_to_its_upload(job_store: JobStore) -> None:
    upload_id = add_upload(job_store, 60)
    for size_bytes in (70, 40):  # put again: the file is replaced
        arrival = arrive(job_store, size_bytes)
        assert job_store.uploads.settle(upload_id, arrival, size_bytes, 0, "ab")
        assert sums(job_store) == (size_bytes, size_bytes)
    assert job_store.uploads.expired_arrivals() == []
    job_store.uploads.drop(upload_id)
    assert sums(job_store) == (0, 0)


def test_an_expired_upload_accepts_no_file(job_store: JobStore) -> None:
    upload_id, arrival = add_upload(job_store, -1), arrive(job_store, 70)
    assert not job_store.uploads.settle(upload_id, arrival, 70, 60, "ab")
    assert job_store.uploads.keep(upload_id, 60) is None
    assert job_store.uploads.expired() == [upload_id]
    job_store.uploads.drop_arrival(arrival)
    assert sums(job_store) == (0, 0)


def test_an_upload_in_use_is_kept(job_store: JobStore) -> None:
    upload_id = add_upload(job_store, 1)
    assert job_store.uploads.keep(upload_id, 60, "another") is None
    assert job_store.uploads.keep(upload_id, 60) == OWNER
    assert job_store.uploads.expired() == []


def test_presigned_uploads_are_reserved_whole_until_they_are_measured(job_store: JobStore) -> None:
    """The service does not see the file."""
    upload_id, link_ends = add_upload(job_store, 60), datetime.now(UTC) + timedelta(seconds=60)
    job_store.uploads.expect(upload_id, link_ends, 1000, AMPLE)
    assert job_store.uploads.unmeasured() == [upload_id]
    job_store.uploads.measure(upload_id, None, 0)
    assert sums(job_store) == (1000, 1000), "it may still come"
    for size_bytes in (10, 30):
        job_store.uploads.measure(upload_id, size_bytes, 0)
        assert sums(job_store) == (size_bytes, size_bytes)
    assert job_store.uploads.unmeasured() == [upload_id], "the link can be used again"


@pytest.mark.parametrize("size_bytes", [None, 30])
def test_the_size_at_the_end_of_the_link_is_final(job_store: JobStore, size_bytes: int | None) -> None:
    upload_id = add_upload(job_store, 60)
    job_store.uploads.expect(upload_id, datetime.now(UTC), 1000, AMPLE)
    job_store.uploads.measure(upload_id, size_bytes, 0)
    assert job_store.uploads.unmeasured() == []
    assert sums(job_store) == (size_bytes or 0, size_bytes or 0)


def test_sums_match_the_held_bytes_after_any_sequence(job_store: JobStore) -> None:
    """Random steps, some repeated as after a lost reply; in the end everything is dropped."""
    chance, arrivals, made, uploads = random.Random(3), [], [], []
    for _ in range(300):
        step = chance.randrange(6)
        if step == 0:
            arrivals.append(arrive(job_store, chance.randrange(1000)))
        elif step == 1 and arrivals:
            made.append(arrivals.pop())
            create(job_store, made[-1])
            if chance.random() < 0.3:
                create(job_store, made[-1])
        elif step == 2 and arrivals:
            job_store.uploads.drop_arrival(arrivals.pop())
        elif step == 3:
            uploads.append(add_upload(job_store, 60))
            job_store.uploads.settle(uploads[-1], arrive(job_store, 50), 50, 0, "ab")
        elif step == 4 and uploads:
            job_store.uploads.drop(uploads.pop())
        elif step == 5 and made:
            job_id = made.pop()
            job_store.jobs.request_cancel(job_id, retention_s=60)
            job_store.jobs.delete(job_id)
    held = sum(int(size) for size in job_store.redis.client.hvals(job_store.redis.key("held")))
    assert sums(job_store) == (held, held)
    for job_id in made:
        job_store.jobs.request_cancel(job_id, retention_s=60)
        job_store.jobs.delete(job_id)
    for arrival in arrivals:
        job_store.uploads.drop_arrival(arrival)
    for upload_id in uploads:
        job_store.uploads.drop(upload_id)
    assert sums(job_store) == (0, 0)
    assert not job_store.redis.client.exists(job_store.redis.key("held"), job_store.redis.key("holders"))
