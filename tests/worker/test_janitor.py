"""The janitor's rounds, each step against a real store, broker and folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.messages import MessageNotSentError, waiting_renders
from jobs.models import ErrorInfo, Job, JobStatus, WorkerInfo
from jobs.names import RENDER_QUEUE, new_upload_id, portrait_key, result_key, upload_key
from jobs.objects import ObjectStoreError
from jobs.store import JobNotFoundError
from tests.jobs.making import published_keys
from tests.services import wait_until
from tests.worker.conftest import Clips, Stack, make_stack
from tests.worker.test_runner import Interposed, interposed_jobs
from worker import janitor as rounds
from worker.face_cache import CacheLimits, StoredEntries
from worker.janitor import Janitor


@pytest.fixture
def stack(redis_url: str, tmp_path: Path, clips: Clips) -> Stack:
    return make_stack(redis_url, tmp_path, clips)


@pytest.fixture
def janitor(stack: Stack) -> Janitor:
    return Janitor(stack.celery, stack.store, stack.objects, stack.settings)


@pytest.fixture
def queued(stack: Stack) -> Iterator[Callable[[str], list[str]]]:
    """Ids in the messages of a queue; looking takes them out."""
    with stack.celery.connection_for_read() as connection:

        def take(queue: str) -> list[str]:
            ids = []
            with connection.SimpleQueue(queue, no_ack=True) as messages:
                while (message := _next(messages)) is not None:
                    ids.append(message.payload[0][0])
            return ids

        yield take


def _next(messages: Any) -> Any:
    try:
        return messages.get(block=False)
    except messages.Empty:
        return None


def claim(stack: Stack, job_id: str, lease_s: float = 30.0) -> Any:
    lease = stack.store.jobs.claim(job_id, "w", lease_s)
    assert lease is not None
    return lease


def fail(stack: Stack, job_id: str, retention_s: int = 0) -> None:
    stack.store.jobs.fail(claim(stack, job_id), ErrorInfo(code="face_not_found", message="-"), retention_s=retention_s)


def test_a_message_that_was_never_sent_is_sent(
    stack: Stack, janitor: Janitor, queued: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API died between storing the job and sending its message."""
    job_id = stack.create()
    janitor.round()
    assert queued(RENDER_QUEUE) == []
    monkeypatch.setattr(rounds, "UNSENT_S", 0.0)
    janitor.round()
    assert queued(RENDER_QUEUE) == [job_id]
    janitor.round()
    assert queued(RENDER_QUEUE) == []


def test_what_a_lost_attempt_published_is_deleted(stack: Stack, janitor: Janitor) -> None:
    """The worker died between publishing and reporting: no record will ever name that object."""
    job_id = stack.create(output={"container": "mkv"})
    lease = claim(stack, job_id, lease_s=0.001)
    key = result_key(job_id, lease.fence, "mkv")
    for written in (*published_keys(key), portrait_key(key, "track_1")):
        stack.objects.put_file(written, stack.clips.video, "video/x-matroska")
    time.sleep(0.01)
    janitor.round()
    assert stack.store.jobs.get(job_id).status is JobStatus.QUEUED
    assert stack.files_of(job_id) == ["input/audio", "input/video"]


def test_a_lost_lease_requeues_the_job_and_then_fails_it(
    stack: Stack, janitor: Janitor, queued: Callable[[str], list[str]]
) -> None:
    job_id = stack.create(max_attempts=2)
    for attempt in (1, 2):
        claim(stack, job_id, lease_s=0.01)
        time.sleep(0.02)
        janitor.round()
        assert queued(RENDER_QUEUE) == ([job_id] if attempt == 1 else [])
    job = stack.store.jobs.get(job_id)
    assert job.error is not None
    assert (job.status, job.error.code) == (JobStatus.FAILED, "worker_lost")


def test_a_message_lost_with_its_reader_is_sent_again_while_a_worker_is_idle(
    stack: Stack, janitor: Janitor, queued: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "STRANDED_S", 0.0)
    job_id = stack.submit()
    assert queued(RENDER_QUEUE) == [job_id]
    busy = WorkerInfo(id="w", engines=[], started_at=datetime.now(UTC), busy_with="job_x")
    janitor.round()
    stack.store.workers.report(busy, 30)
    janitor.round()
    assert queued(RENDER_QUEUE) == []
    stack.store.workers.report(busy.model_copy(update={"busy_with": None}), 30)
    janitor.round()
    assert queued(RENDER_QUEUE) == [job_id]


def test_only_messages_that_the_broker_lacks_are_sent_again(
    stack: Stack, janitor: Janitor, queued: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that hangs, or is between two jobs, is idle by its card while the line is long."""
    monkeypatch.setattr(rounds, "STRANDED_S", 0.0)
    stack.store.workers.report(WorkerInfo(id="w", engines=[], started_at=datetime.now(UTC)), 30)
    jobs = [stack.submit() for _ in range(20)]
    for _ in range(5):
        janitor.round()
    assert waiting_renders(stack.celery) == {0: 0, 1: 20, 2: 0}
    with stack.celery.connection_for_read() as connection, connection.SimpleQueue(RENDER_QUEUE, no_ack=True) as line:
        lost = [line.get(block=False).payload[0][0] for _ in range(2)]
    for _ in range(5):
        janitor.round()
    messages = queued(RENDER_QUEUE)
    assert sorted(messages) == sorted(jobs)
    assert messages[-2:] == lost == jobs[:2]


def test_a_job_of_another_priority_does_not_hide_a_lost_message(
    stack: Stack, janitor: Janitor, queued: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "STRANDED_S", 0.0)
    stack.store.workers.report(WorkerInfo(id="w", engines=[], started_at=datetime.now(UTC)), 30)
    lost = stack.submit(priority=2)
    assert queued(RENDER_QUEUE) == [lost]
    low = [stack.submit(priority=0) for _ in range(3)]
    janitor.round()
    assert queued(RENDER_QUEUE) == [lost, *low]


def test_a_passed_deadline_fails_the_job(stack: Stack, janitor: Janitor) -> None:
    job_id = stack.create(expires_in_s=1)
    janitor.round()
    assert stack.store.jobs.get(job_id).status is JobStatus.QUEUED
    time.sleep(1.05)
    janitor.round()
    error = stack.store.jobs.get(job_id).error
    assert error is not None
    assert error.code == "deadline_exceeded"


def test_a_job_past_its_retention_is_deleted_with_its_files(stack: Stack, janitor: Janitor) -> None:
    kept, old = stack.create(), stack.create()
    fail(stack, kept, retention_s=600)
    fail(stack, old)
    janitor.round()
    assert stack.files_of(old) == []
    assert len(stack.files_of(kept)) == 2
    assert [job.id for job in stack.store.jobs.page(status=None, cursor=None, limit=10).jobs] == [kept]


def test_files_that_cannot_be_deleted_keep_their_record(
    stack: Stack, janitor: Janitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = stack.create()
    fail(stack, job_id)

    def refuse(_: str) -> int:
        raise ObjectStoreError("away")

    monkeypatch.setattr(rounds, "POSTPONE_FIRST_S", 0.0)
    Janitor(stack.celery, stack.store, Interposed(stack.objects, delete_prefix=refuse), stack.settings).round()
    assert stack.store.jobs.get(job_id).status is JobStatus.FAILED
    time.sleep(0.01)
    janitor.delete_jobs()
    assert stack.store.jobs.due_for_deletion() == []
    assert stack.files_of(job_id) == []


def test_an_unused_upload_is_deleted(stack: Stack, janitor: Janitor) -> None:
    old, fresh = new_upload_id(), new_upload_id()
    for upload_id, age_s in ((old, 1), (fresh, -60)):
        stack.objects.put_file(upload_key(upload_id), stack.clips.audio, "audio/wav")
        stack.store.uploads.add(upload_id, datetime.now(UTC) - timedelta(seconds=age_s))
    janitor.round()
    assert list(stack.objects.list_keys("uploads/")) == [upload_key(fresh)]
    assert not stack.store.uploads.exists(old)
    assert stack.store.uploads.exists(fresh)


def test_a_file_that_arrives_after_its_upload_has_expired_is_deleted(stack: Stack, janitor: Janitor) -> None:
    """A PUT to a presigned link that began in time may end when the janitor has dropped the upload."""
    late, live = new_upload_id(), new_upload_id()
    stack.store.uploads.add(live, datetime.now(UTC) + timedelta(seconds=60))
    for upload_id in (late, live):
        stack.objects.put_file(upload_key(upload_id), stack.clips.audio, "audio/wav")
    janitor.round()
    assert list(stack.objects.list_keys("uploads/")) == [upload_key(live)]


def test_an_event_past_its_retry_window_is_given_up_and_stays_listed(
    stack: Stack, janitor: Janitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its receiver was not tried any more, so no attempt ended it."""
    job_id = stack.create(webhook_url="http://hooks.example/")
    fail(stack, job_id, retention_s=600)
    janitor.round()
    assert [each.state for each in stack.store.webhooks.deliveries(job_id)] == ["pending"]
    monkeypatch.setattr(rounds, "retry_window_s", lambda _: 0.0)
    janitor.round()
    (delivery,) = stack.store.webhooks.deliveries(job_id)
    assert (delivery.state, delivery.next_attempt_at) == ("given_up", None)
    assert stack.store.webhooks.due() == []
    listed = stack.store.webhooks.undelivered(state="given_up", cursor=None, limit=10).deliveries
    assert [each.id for each in listed] == [delivery.id]


@pytest.mark.parametrize("line", ["delete_at", "arrivals", "uploads", "split_files"])
def test_an_item_that_cannot_be_deleted_blocks_no_other(
    stack: Stack, line: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than a round looks at: they must not stay at the head of the line either."""
    store, now = stack.store, datetime.now(UTC)
    names = [f"bad-{number:03}" for number in range(105)] + ["good"]
    client, key = store.redis.client, store.redis.key
    for age_s, name in enumerate(reversed(names)):
        client.zadd(key(line), {name: int((now.timestamp() - 1000 - age_s) * 1000)})
    deleted: list[str] = []

    def delete(name: str) -> int:
        if "bad-" in name:
            raise ObjectStoreError("access denied")
        deleted.append(name)
        return 1

    objects = Interposed(stack.objects, delete_prefix=delete, delete=delete)
    janitor = Janitor(stack.celery, store, objects, stack.settings)
    janitor.round()
    janitor.round()
    assert any("good" in name for name in deleted)
    failing = store.janitor_failures.items(200)
    assert len(failing) == store.janitor_failures.count() == 105
    assert failing[f"{line}:bad-007"] == 1, "it waits before it is tried again"
    assert store.counters.tally().counts["janitor_failed"] == {line: 105}
    assert "an item failed" in caplog.text

    monkeypatch.setattr(rounds, "POSTPONE_FIRST_S", 0.0)
    client.zadd(key(line), {"bad-007": 0})
    janitor.round()
    assert store.janitor_failures.items(200)[f"{line}:bad-007"] == 2
    client.zadd(key(line), {"bad-007": 0})
    janitor._objects = stack.objects
    janitor.round()
    assert f"{line}:bad-007" not in store.janitor_failures.items(200)


def test_an_unreachable_broker_does_not_block_the_round(
    stack: Stack, janitor: Janitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message takes two seconds to fail: one of them is enough to know."""
    sent: list[str] = []

    def refuse(_app: Any, _store: Any, job: Any) -> None:
        sent.append(job.id)
        raise MessageNotSentError("away")

    monkeypatch.setattr(rounds, "UNSENT_S", 0.0)
    monkeypatch.setattr(rounds, "send_job", refuse)
    for _ in range(5):
        stack.create()
    janitor.send_unsent()
    assert len(sent) == 1


def test_a_failed_step_does_not_stop_the_others(
    stack: Stack, janitor: Janitor, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> list[Any]:
        raise RuntimeError("broken step")

    job_id = stack.create()
    fail(stack, job_id)
    Janitor(stack.celery, interposed_jobs(stack.store, requeue_lost=refuse), stack.objects, stack.settings).round()
    assert stack.files_of(job_id) == []
    assert "RuntimeError" in caplog.text


def test_one_janitor_works_at_a_time_and_its_thread_ends(stack: Stack, janitor: Janitor) -> None:
    job_id = stack.create()
    fail(stack, job_id)
    assert stack.store.locks.acquire(rounds.LOCK, "somebody else", 0.5)
    janitor.start()
    time.sleep(0.3)
    assert len(stack.files_of(job_id)) == 2
    wait_until(lambda: stack.files_of(job_id) == [], timeout=5)
    began = time.monotonic()
    janitor.stop()
    assert time.monotonic() - began < 1


def test_the_face_cache_is_swept_periodically(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, fresh = 64 * "a", 64 * "b"
    faces = tmp_path / "faces"
    faces.mkdir()
    (faces / "track").write_bytes(b"points")
    limits = CacheLimits(1000, stack.settings.face_cache_ttl_s)
    stale = time.time() - stack.settings.face_cache_ttl_s - 1
    StoredEntries(stack.objects, limits, clock=lambda: stale).write(old, faces)
    StoredEntries(stack.objects, limits).write(fresh, faces)
    janitor = Janitor(stack.celery, stack.store, stack.objects, stack.settings)
    janitor.round()
    assert {key.split("/")[1] for key in stack.objects.list_keys("face-cache/")} == {fresh}

    StoredEntries(stack.objects, limits, clock=lambda: stale).write(old, faces)
    janitor.round()  # too soon after the last sweep
    assert list(stack.objects.list_keys(f"face-cache/{old}/"))
    monkeypatch.setattr(rounds, "SWEEP_EVERY_S", 0.0)
    janitor._sweep_at.clear()
    janitor.round()
    assert not list(stack.objects.list_keys(f"face-cache/{old}/"))


def test_an_unreadable_record_blocks_no_other(
    stack: Stack, janitor: Janitor, queued: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every line that a round looks at, before a good one; the files go after the retention."""
    monkeypatch.setattr(rounds, "UNSENT_S", 0.0)
    client: Any = stack.store.redis.client  # type: ignore[attr-defined]
    broken, good = [], []
    for jobs in (broken, good):
        jobs.append(stack.create())
        jobs.append(stack.create())
        claim(stack, jobs[1], lease_s=-1.0)
        jobs.append(stack.create())
        fail(stack, jobs[2])
    for job_id in broken:
        client.hset(f"{{retalking}}:job:{job_id}", "spec", "{")
    janitor.round()
    assert set(queued(RENDER_QUEUE)) == set(good[:2])
    with pytest.raises(JobNotFoundError):
        stack.store.jobs.get(good[2])
    assert {record.id for record in stack.store.quarantine.records()} == set(broken[:2]), (
        "the third was over, and is deleted"
    )
    assert all(stack.files_of(job_id) for job_id in broken[:2])
    janitor._settings = stack.settings.model_copy(update={"retention_s": 0})
    janitor.round()
    assert stack.store.quarantine.size() == 0
    assert not any(stack.files_of(job_id) for job_id in broken)


def test_an_evaluation_whose_message_cannot_be_sent_does_not_end_the_step(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is due again by itself."""
    jobs = [stack.store.jobs.get(stack.create()) for _ in range(2)]
    asked: list[str] = []

    def ask(_: object, job: Job) -> None:
        asked.append(job.id)
        raise MessageNotSentError("away")

    monkeypatch.setattr(rounds, "ask_to_evaluate", ask)
    evaluations = Interposed(stack.store.evaluations, take_due=lambda **_: jobs)
    store: Any = Interposed(stack.store, evaluations=evaluations)
    Janitor(stack.celery, store, stack.objects, stack.settings).round()
    assert asked == [job.id for job in jobs]
    assert [record.levelname for record in caplog.records if "evaluation" in record.message] == ["WARNING"] * 2
