"""Jobs as shown to callers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jobs.local_objects import LocalObjectStore
from jobs.models import DeliveryAttempt, InputRef, JobRequest, JobSpec, JobView
from jobs.names import new_job_id
from jobs.settings import Settings
from jobs.store import JobStore
from jobs.view import masked_url, view_job
from tests.jobs.making import EVALUATION, RENDER, add_job, claim, start_job, succeed, worker_info
from tests.jobs.test_objects import open_s3
from tests.services import S3Endpoint


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, data_dir=tmp_path, public_url="https://sync.example.com/base/", link_ttl_s=120)


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path / "objects")


def seen(store: JobStore, job_id: str, objects: object, settings: Settings) -> JobView:
    return view_job(store.jobs.get(job_id), store, objects, settings)


def test_a_queued_job(job_store: JobStore, objects: LocalObjectStore, settings: Settings) -> None:
    add_job(job_store, priority=2)
    job = add_job(job_store, engine="preview", upper_face="sad", metadata={"a": 1})
    view = seen(job_store, job.id, objects, settings)
    assert (view.status, view.queue_position, view.eta_s) == ("queued", 2, None)
    assert (view.engine_requested, view.engine, view.metadata, view.priority) == ("preview", None, {"a": 1}, 1)
    assert view.options.upper_face == "sad"
    assert (view.result, view.webhook) == (None, None)


def test_the_estimate_of_a_queued_job_counts_rounds_of_workers(
    job_store: JobStore, objects: LocalObjectStore, settings: Settings
) -> None:
    lease = start_job(job_store)
    time.sleep(0.2)
    succeed(job_store, lease)
    mean_s = job_store.jobs.mean_run_s()
    ids = [add_job(job_store).id for _ in range(4)]
    assert seen(job_store, ids[3], objects, settings).eta_s == pytest.approx(4 * mean_s, abs=0.06)
    for name in ("w1", "w2"):
        job_store.workers.report(worker_info(name), 30)
    assert seen(job_store, ids[3], objects, settings).eta_s == pytest.approx(2 * mean_s, abs=0.06)
    assert seen(job_store, ids[0], objects, settings).eta_s == pytest.approx(mean_s, abs=0.06)


def test_the_estimate_of_a_running_job_follows_its_own_rate(
    job_store: JobStore, objects: LocalObjectStore, settings: Settings
) -> None:
    lease = start_job(job_store)
    assert seen(job_store, lease.job_id, objects, settings).eta_s is None
    time.sleep(0.4)
    job_store.jobs.report(lease, stage="synthesize", progress=0.25, lease_s=30)
    view = seen(job_store, lease.job_id, objects, settings)
    assert 1.2 <= view.eta_s < 3.0
    assert (view.stage, view.progress, view.queue_position) == ("synthesize", 0.25, None)


def test_a_result_from_the_folder_is_streamed_by_the_api(
    job_store: JobStore, objects: LocalObjectStore, settings: Settings
) -> None:
    job = succeed(job_store, start_job(job_store))
    view = view_job(job, job_store, objects, settings)
    assert view.result.url == f"https://sync.example.com/base/jobs/{job.id}/result"
    assert view.result.expires_at is None
    assert (view.result.frames, view.evaluation, view.render) == (50, EVALUATION, RENDER)
    assert (view.engine, view.device, view.eta_s) == ("preview", "cpu", None)


def test_a_result_from_the_bucket_is_a_link_that_expires(
    job_store: JobStore, s3: S3Endpoint, settings: Settings
) -> None:
    job = succeed(job_store, start_job(job_store))
    view = view_job(job, job_store, open_s3(s3), settings)
    assert view.result.url.startswith(f"{s3.endpoint}/{s3.bucket}/{job.result.key}?")
    assert f"{job.id}.mp4" in view.result.url
    assert 100 < (view.result.expires_at - job.finished_at).total_seconds() < 140


def test_urls_of_inputs_are_not_shown(job_store: JobStore, objects: LocalObjectStore, settings: Settings) -> None:
    source = InputRef(kind="url", url="https://bucket.example.com/a.mp4?signature=topsecret")
    request = JobRequest(webhook_url="https://hooks.example.com/in?token=topsecret&x=")
    job = job_store.jobs.create(new_job_id(), JobSpec(video=source, audio=source, request=request), max_attempts=3).job
    text = seen(job_store, job.id, objects, settings).model_dump_json()
    assert "topsecret" not in text
    assert "bucket.example.com" not in text
    assert "https://hooks.example.com/in?token=***&x=***" in text


def test_the_delivery_log_is_part_of_the_job(
    job_store: JobStore, objects: LocalObjectStore, settings: Settings
) -> None:
    lease = start_job(job_store, webhook_url="https://hooks.example.com/in")
    job = succeed(job_store, lease)
    (delivery_id,) = job_store.webhooks.due()
    attempt = DeliveryAttempt(at=job.finished_at, status_code=204, duration_ms=31)
    job_store.webhooks.record_attempt(delivery_id, attempt, state="delivered", retry_in_s=None)
    (row,) = view_job(job, job_store, objects, settings).webhook.deliveries
    assert (row.id, row.event, row.state, row.attempts) == (delivery_id, "job.succeeded", "delivered", [attempt])


def test_a_job_deleted_while_it_is_shown_is_still_shown(
    job_store: JobStore, objects: LocalObjectStore, settings: Settings
) -> None:
    job = succeed(job_store, start_job(job_store, webhook_url="https://hooks.example.com/in"))
    job_store.jobs.delete(job.id)
    assert view_job(job, job_store, objects, settings).webhook.deliveries == []


def test_a_claimed_job_shows_its_attempt(job_store: JobStore, objects: LocalObjectStore, settings: Settings) -> None:
    job = add_job(job_store, max_attempts=5)
    job_store.jobs.release(claim(job_store, job.id), count_attempt=True)
    claim(job_store, job.id)
    view = seen(job_store, job.id, objects, settings)
    assert (view.attempts, view.max_attempts, view.cancel_requested) == (2, 5, False)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("https://h.example/a/b", "https://h.example/a/b"),
        ("https://user:pw@h.example:8443/a#frag", "https://h.example:8443/a"),
        ("http://h.example/?a=1&a=2&b", "http://h.example/?a=***&a=***&b=***"),
    ],
)
def test_masking(url: str, masked: str) -> None:
    assert masked_url(url) == masked
