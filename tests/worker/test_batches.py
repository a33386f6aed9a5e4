"""Batches: their items become jobs a few at a time, and every way in which these end ends the batch once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.local_objects import LocalObjectStore
from jobs.messages import make_celery
from jobs.models import Batch, BatchPlace, ErrorInfo, InputRef, Job, JobRequest, JobSegment, JobSpec, JobStatus
from jobs.names import input_key, new_batch_id, new_job_id, new_upload_id, upload_key
from jobs.opening import FreeSpace
from jobs.settings import Settings
from jobs.store import (
    IdempotencyConflictError,
    IdempotencyKey,
    JobStore,
    Origin,
    QuotaExceededError,
    ReceiverRules,
    WrongStateError,
)
from jobs.store.keys import Scope
from tests.api.running import MP4
from tests.jobs.making import RETENTION_S, add_job, claim, succeed
from worker import batches as batches_module
from worker.batches import MIN_WINDOW, TRIES, BatchFeeder

HOOK = "https://hooks.example.com/batches"
ERROR = ErrorInfo(code="face_not_found", message="No face.")


class Bench:
    """A feeder over a real store and real objects, and a worker's part played by the test."""

    def __init__(self, store: JobStore, redis_url: str, folder: Path) -> None:
        self.store = store
        self.settings = Settings(_env_file=None, redis_url=redis_url, data_dir=folder)
        self.objects = LocalObjectStore(folder / "objects")
        self.feeder = self.another_feeder()

    def another_feeder(self) -> BatchFeeder:
        space = FreeSpace([self.settings.data_dir], 0)
        return BatchFeeder(make_celery(self.settings), self.store, self.objects, space, self.settings)

    def upload(self, content: bytes = MP4, owner: str = "") -> str:
        upload_id = new_upload_id()
        self.store.uploads.add(upload_id, datetime.now(UTC) + timedelta(hours=1), owner)
        with self.objects.writer(upload_key(upload_id)) as writer:
            writer.write(content)
            writer.commit()
        return upload_id

    def submit(self, *videos: str, owner: str = "", most: int = 1000, **more: Any) -> Batch:
        """A batch of these uploads; `url` is an address."""
        batch_id, audio = new_batch_id(), InputRef(kind="url", url="https://media.example.com/a.wav")
        specs = [
            JobSpec(
                video=InputRef(kind="url", url="https://media.example.com/v.mp4")
                if video == "url"
                else InputRef(kind="object", upload_id=video),
                audio=audio if video == "url" else InputRef(kind="object", upload_id=video),
                request=JobRequest(metadata={"line": index}),
                batch=BatchPlace(id=batch_id, index=index),
            )
            for index, video in enumerate(videos)
        ]
        origin = Origin(owner, 100)
        return self.store.batches.create(batch_id, specs, origin=origin, most_waiting=most, **more).batch

    def get(self, batch: Batch) -> Batch:
        return self.store.batches.get(batch.id)

    def jobs(self, batch: Batch) -> list[Job]:
        """By index."""
        page = self.store.jobs.page(status=None, cursor=None, limit=200, batch=batch.id)
        return sorted(page.jobs, key=lambda job: job.spec.batch.index)

    def render(self, job: Job, is_good: bool = True) -> Job:
        lease = claim(self.store, job.id)
        if is_good:
            return succeed(self.store, lease)
        return self.store.jobs.fail(lease, ERROR, retention_s=RETENTION_S)

    def work_off(self, batch: Batch, is_good: Callable[[int], bool] = lambda index: True) -> Batch:
        for _ in range(200):
            self.feeder.round()
            for job in self.jobs(batch):
                if job.status is JobStatus.QUEUED:
                    self.render(job, is_good(job.spec.batch.index))
            if self.get(batch).is_over:
                return self.get(batch)
        raise AssertionError(self.get(batch))


@pytest.fixture
def bench(job_store: JobStore, redis_url: str, tmp_path: Path) -> Bench:
    return Bench(job_store, redis_url, tmp_path)


def test_uploads_of_segments_become_files_of_the_job(bench: Bench) -> None:
    batch_id, uploads = new_batch_id(), [bench.upload(), bench.upload(MP4 + b"1"), bench.upload(MP4 + b"22")]
    inputs = dict(zip(("video", "audio_1", "audio_2"), uploads, strict=True))
    segments = [JobSegment(start_s=number, audio=f"audio_{number}") for number in (1, 2)]
    spec = JobSpec.of(
        {part: InputRef(kind="object", upload_id=upload) for part, upload in inputs.items()},
        segments,
        JobRequest(),
        batch=BatchPlace(id=batch_id, index=0),
    )
    batch = bench.store.batches.create(batch_id, [spec], origin=Origin("", 100), most_waiting=10).batch
    bench.feeder.round()
    (job,) = bench.jobs(batch)
    assert job.spec.segments == segments
    for part, size in (("video", len(MP4)), ("audio_1", len(MP4) + 1), ("audio_2", len(MP4) + 2)):
        assert job.inputs[part].size_bytes == size
        assert bench.objects.info(input_key(job.id, part)).size_bytes == size


def test_speech_of_segments_is_limited_together(bench: Bench) -> None:
    bench.settings = bench.settings.model_copy(update={"max_upload_bytes": 2 * len(MP4) - 1})
    bench.feeder = bench.another_feeder()
    batch_id, upload = new_batch_id(), bench.upload()
    parts = ("video", "audio_1", "audio_2")
    spec = JobSpec.of(
        {part: InputRef(kind="object", upload_id=upload) for part in parts},
        [JobSegment(start_s=number, audio=f"audio_{number}") for number in (1, 2)],
        JobRequest(),
        batch=BatchPlace(id=batch_id, index=0),
    )
    batch = bench.store.batches.create(batch_id, [spec], origin=Origin("", 100), most_waiting=10).batch
    bench.feeder.round()
    assert [each.code for each in bench.store.batches.failures(batch.id)] == ["body_too_large"]


def test_every_item_becomes_a_job_and_the_batch_ends_once(bench: Bench) -> None:
    upload = bench.upload()
    batch = bench.submit(*[upload] * 25, webhook_url=HOOK, metadata={"order": 7})
    assert (batch.status, batch.counts.waiting, batch.metadata) == ("running", 25, {"order": 7})
    over = bench.work_off(batch, lambda index: index % 5 != 0)
    assert over.status == "completed"
    assert over.counts.model_dump() == {
        "waiting": 0,
        "queued": 0,
        "running": 0,
        "succeeded": 20,
        "failed": 5,
        "canceled": 0,
    }
    failures = bench.store.batches.failures(batch.id)
    assert [(each.index, each.code) for each in failures] == [(index, "face_not_found") for index in (0, 5, 10, 15, 20)]
    jobs = bench.jobs(batch)
    assert [job.spec.batch.index for job in jobs] == list(range(25))
    assert [failure.job_id for failure in failures] == [job.id for job in jobs if job.status is JobStatus.FAILED]
    assert b"".join(bench.objects.read(input_key(jobs[3].id, "video"))) == MP4
    (delivery,) = bench.store.webhooks.take(5, ReceiverRules(16, 30.0))
    assert (delivery.event, delivery.batch_id, delivery.job_id) == ("batch.completed", batch.id, "")
    assert bench.store.batches.open("") == bench.store.batches.owners() == []
    assert bench.store.batches.waiting("") == 0


def test_a_batch_leaves_the_queue_to_others(bench: Bench) -> None:
    """Whoever submits next stands behind a window of it, not behind all of it; so does every batch of the owner."""
    upload = bench.upload()
    big, second = bench.submit(*[upload] * 30), bench.submit(*[upload] * 30)
    bench.feeder.round()
    other = add_job(bench.store)
    bench.feeder.round()
    assert bench.store.jobs.queue_position(other.id) == MIN_WINDOW + 1
    assert (bench.get(big).counts.queued, bench.get(second).counts.queued) == (MIN_WINDOW, 0)
    bench.render(bench.jobs(big)[0])
    bench.feeder.round()
    assert (bench.get(big).counts.queued, bench.get(big).counts.succeeded) == (MIN_WINDOW, 1)


def test_the_batches_of_two_owners_have_a_window_each(bench: Bench) -> None:
    first = bench.submit(*["url"] * 30, owner="aa")
    second = bench.submit(*["url"] * 30, owner="bb")
    bench.feeder.round()
    assert [bench.get(each).counts.queued for each in (first, second)] == [MIN_WINDOW] * 2


def test_jobs_of_a_batch_count_against_the_owner(bench: Bench) -> None:
    account = bench.store.keys.create("batches", frozenset({Scope.SUBMIT}), live_jobs=3)[0].account
    batch = bench.submit(*["url"] * 9, owner=account)
    bench.feeder.round()
    assert bench.get(batch).counts.queued == 3
    assert bench.store.jobs.count_live(account) == 3
    bench.store.accounts.change(account, live_jobs=5)  # a limit that is changed later applies to what still waits
    bench.feeder.round()
    assert bench.get(batch).counts.queued == 5


def test_many_batches_of_one_owner_hold_nobody_up(bench: Bench) -> None:
    for _ in range(120):
        bench.submit("url", owner="aa")
    other = bench.submit("url", owner="bb")
    bench.feeder.round()
    assert bench.get(other).counts.queued == 1
    assert bench.store.jobs.count_live("aa") == MIN_WINDOW


def test_items_that_wait_are_limited(bench: Bench) -> None:
    bench.submit(*["url"] * 6, most=10)
    with pytest.raises(QuotaExceededError):
        bench.submit(*["url"] * 5, most=10)
    bench.submit(*["url"] * 4, most=10)
    bench.submit(*["url"] * 5, most=10, owner="aa")


def test_an_item_that_cannot_be_rendered_fails_as_a_job(bench: Bench) -> None:
    good, text, gone = bench.upload(), bench.upload(b"no video at all" * 10), new_upload_id()
    batch = bench.work_off(bench.submit(good, text, gone, good))
    assert (batch.counts.succeeded, batch.counts.failed) == (2, 2)
    failures = bench.store.batches.failures(batch.id)
    assert [each.code for each in failures] == ["container_unsupported", "upload_not_found"]
    failed = [job for job in bench.jobs(batch) if job.status is JobStatus.FAILED]
    assert [job.error.code for job in failed] == ["container_unsupported", "upload_not_found"]
    assert [job.id for job in failed] == [each.job_id for each in failures]
    assert bench.store.uploads.stored_bytes() == 2 * 2 * len(MP4) + 2 * 1234


def test_full_storage_is_waited_for_and_then_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "PAUSE_S", 0.0)
    bench.settings = bench.settings.model_copy(update={"stored_bytes": len(MP4)})
    bench.feeder = bench.another_feeder()
    batch = bench.submit(bench.upload(), "url")
    for _ in range(TRIES - 1):
        bench.feeder.round()
        assert bench.get(batch).counts.waiting == 2
    bench.feeder.round()
    assert [each.code for each in bench.store.batches.failures(batch.id)] == ["storage_full"]
    assert bench.get(batch).counts.model_dump(include={"waiting", "queued", "failed"}) == {
        "waiting": 0,
        "queued": 1,
        "failed": 1,
    }
    assert bench.store.uploads.stored_bytes() == 0


def test_the_deadline_of_an_item_counts_from_its_submission(bench: Bench) -> None:
    spec = JobSpec(
        video=InputRef(kind="url", url="https://m.example/v"),
        audio=InputRef(kind="url", url="https://m.example/a"),
        request=JobRequest(expires_in_s=100),
    )
    job = bench.store.jobs.create(new_job_id(), spec, max_attempts=3, waited_s=90).job
    assert (job.deadline_at - job.created_at).total_seconds() == 10


def test_a_canceled_batch_drops_and_cancels_the_rest(bench: Bench) -> None:
    upload = bench.upload()
    batch = bench.submit(*[upload] * 20, webhook_url=HOOK)
    bench.feeder.round()
    first, running, *_ = bench.jobs(batch)
    bench.render(first)
    lease = claim(bench.store, running.id)
    for job_id in bench.store.batches.cancel(batch.id):
        bench.store.jobs.request_cancel(job_id, retention_s=RETENTION_S)
    now = bench.get(batch)
    assert (now.status, now.counts.running, now.counts.canceled) == ("running", 1, 18)
    bench.store.jobs.cancel(lease, retention_s=RETENTION_S)
    now = bench.get(batch)
    assert (now.status, now.counts.succeeded, now.counts.canceled) == ("canceled", 1, 19)
    bench.feeder.round()
    assert len(bench.jobs(batch)) == MIN_WINDOW
    assert bench.store.batches.waiting("") == 0
    assert [each.batch_id for each in bench.store.webhooks.take(5, ReceiverRules(16, 30.0))] == [batch.id]


def test_a_cancel_whose_process_died_is_completed(bench: Bench) -> None:
    batch = bench.submit(*["url"] * 12)
    bench.feeder.round()
    bench.store.batches.cancel(batch.id)
    assert bench.get(batch).counts.queued == MIN_WINDOW
    bench.feeder.round()
    assert (bench.get(batch).status, bench.get(batch).counts.canceled) == ("canceled", 12)


def test_an_item_becomes_one_job_only(bench: Bench) -> None:
    """Two feeders, one of which had read the batch before the other went on."""
    batch = bench.submit("url", "url")
    spec = bench.store.batches.items(batch, 1)[0]
    job_id = new_job_id()
    first = bench.store.jobs.create(job_id, spec, max_attempts=3)
    assert bench.store.jobs.create(job_id, spec, max_attempts=3).job.id == first.job.id  # a reply got lost
    with pytest.raises(WrongStateError):
        bench.store.jobs.create(new_job_id(), spec, max_attempts=3)
    assert bench.get(batch).counts.queued == 1


def test_a_job_whose_record_is_lost_does_not_keep_the_batch_open(bench: Bench) -> None:
    batch = bench.submit("url", "url")
    bench.feeder.round()
    broken, good = bench.jobs(batch)
    bench.store.redis.client.hset(bench.store.redis.key("job", broken.id), "spec", "{")
    bench.store.jobs.page(status=None, cursor=None, limit=10)  # whoever reads it sets it aside
    bench.store.jobs.request_cancel(good.id, retention_s=RETENTION_S)
    assert bench.get(batch).status == "running"
    bench.another_feeder().round()  # its lock is held by the first
    assert bench.store.batches.check(batch.id) == 1
    assert bench.get(batch).status == "completed"
    assert [each.code for each in bench.store.batches.failures(batch.id)] == ["record_unreadable"]


def test_idempotency_keys(bench: Bench) -> None:
    key = IdempotencyKey("k", "print", 60)
    batch = bench.submit("url", idempotency=key)
    assert bench.submit("url", idempotency=key).id == batch.id
    assert bench.submit("url", idempotency=key, owner="aa").id != batch.id
    with pytest.raises(IdempotencyConflictError):
        bench.submit("url", idempotency=IdempotencyKey("k", "other", 60))
    assert bench.store.batches.waiting("") == 1


def test_uploads_of_waiting_items_are_kept(bench: Bench) -> None:
    upload = bench.upload()
    batch = bench.submit(*[upload] * 20)
    uploads = bench.store.redis.key("uploads")
    bench.store.redis.client.hset(bench.store.redis.key("batch", batch.id), "kept_ms", "1")
    before = bench.store.redis.client.zscore(uploads, upload)
    bench.feeder.round()
    assert bench.store.redis.client.zscore(uploads, upload) > before + 3600_000


def test_retention(bench: Bench) -> None:
    batch = bench.submit("url", webhook_url=HOOK)
    with pytest.raises(WrongStateError):
        bench.store.batches.delete(batch.id)
    bench.store.batches.cancel(batch.id)
    assert bench.get(batch).status == "canceled"
    bench.store.redis.client.zadd(bench.store.redis.key("batches_over"), {batch.id: 1})
    bench.feeder.round()
    assert [key for key in bench.store.redis.client.keys(f"{bench.store.redis.prefix}*") if batch.id in key] == []
