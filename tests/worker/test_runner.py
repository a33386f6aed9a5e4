"""One attempt against a real job store and real files, with faults put between."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from jobs.local_objects import LocalObjectStore
from jobs.models import InputRef, JobRequest, JobSpec, JobStatus, WorkerInfo
from jobs.names import curves_key, input_key, job_prefix, new_job_id, poster_key, targets_key
from jobs.objects import ObjectInfo, ObjectStoreError
from jobs.opening import open_objects
from jobs.settings import Settings
from jobs.store import JobStore, LeaseLostError
from retalking_core.clip_plan import plan_clip
from retalking_core.evaluation.clip import EvaluationModels
from retalking_core.evaluation.measurement import Measurement
from retalking_core.media import tap
from retalking_core.media.limits import MediaLimits
from retalking_core.progress import Progress
from tests.jobs.making import published_keys
from tests.services import S3Endpoint, wait_until
from tests.worker.conftest import Clips
from tests.worker.scripted_engine import Act, ScriptedEngine
from worker import evaluation, runner
from worker.context import RunContext
from worker.engines import EngineSet
from worker.runner import run_job
from worker.supervision import ShutdownNotice


class Interposed:
    """Anything, with some of its methods replaced."""

    def __init__(self, inner: object, **methods: Any) -> None:
        self._inner = inner
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        return self._methods.get(name) or getattr(self._inner, name)


def interposed_jobs(store: JobStore, **methods: Callable[..., Any]) -> Any:
    """The store, with some methods of `store.jobs` replaced."""
    return Interposed(store, jobs=Interposed(store.jobs, **methods))


@pytest.fixture
def context(job_store: JobStore, tmp_path: Path) -> RunContext:
    settings = Settings(_env_file=None, data_dir=tmp_path / "data", work_dir=tmp_path / "work", lease_s=1.5, stall_s=60)
    engine = ScriptedEngine(tmp_path / "marks")
    engine.warm_up()
    return RunContext(
        settings=settings,
        store=job_store,
        objects=LocalObjectStore(tmp_path / "objects"),
        engines=EngineSet({"preview": engine}),
        limits=MediaLimits(),
        worker_id="w1",
        notice=ShutdownNotice(),
        models=EvaluationModels(tmp_path / "models"),
        storage_pauses_s=(0.05, 0.05),
    )


@pytest.fixture
def submit(context: RunContext, clips: Clips) -> Callable[..., str]:
    def create(max_attempts: int = 3, **asked: Any) -> str:
        job_id = new_job_id()
        refs = {}
        for part, path in (("video", clips.video), ("audio", clips.audio)):
            context.objects.put_file(input_key(job_id, part), path, "application/octet-stream")
            refs[part] = InputRef(kind="object", key=input_key(job_id, part))
        request = JobRequest(**({"evaluate": []} | asked))
        context.store.jobs.create(job_id, JobSpec(**refs, request=request), max_attempts=max_attempts)
        return job_id

    return create


def is_result(key: str) -> bool:
    return not any(kind in key for kind in ("curves", "poster", "preview"))


def results(context: RunContext, job_id: str) -> list[str]:
    return list(context.objects.list_keys(f"{job_prefix(job_id)}result/"))


def lose_lease(store: JobStore, job_id: str) -> None:
    """Wait until the lease ran out, and let the janitor and another worker have the job."""
    until = time.monotonic() + 5
    while job_id not in [job.id for job in store.jobs.requeue_lost()]:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert store.jobs.claim(job_id, "w2", 30.0) is not None


def without_renewal(context: RunContext) -> RunContext:
    """A worker whose clock stood still: the store hears nothing of it after the claim."""
    mute = interposed_jobs(context.store, renew=lambda *_: False, report=lambda *_, **__: False)
    return replace(context, store=mute)


def test_a_worker_that_lost_its_lease_publishes_nothing_and_removes_its_object(
    context: RunContext, submit: Callable[..., str]
) -> None:
    job_id = submit()

    def put_late(key: str, path: Path, content_type: str) -> ObjectInfo:
        info = context.objects.put_file(key, path, content_type)
        assert key in results(context, job_id)
        if is_result(key):
            lose_lease(context.store, job_id)
        return info

    slow = replace(without_renewal(context), objects=Interposed(context.objects, put_file=put_late))
    run_job(job_id, slow)
    job = context.store.jobs.get(job_id)
    assert (job.status, job.worker, job.result) == (JobStatus.RUNNING, "w2", None)
    assert results(context, job_id) == []


def test_a_lost_lease_stops_the_render(context: RunContext, submit: Callable[..., str], tmp_path: Path) -> None:
    """The renewing thread finds out; the engine stops at its next progress report."""
    job_id = submit(seed=Act.SLOW)

    def renew(*_: object) -> bool:
        raise LeaseLostError(job_id)

    began = time.monotonic()
    run_job(job_id, replace(context, store=interposed_jobs(context.store, renew=renew)))
    assert time.monotonic() - began < 5
    assert (tmp_path / "marks" / "left").exists()
    assert context.store.jobs.get(job_id).status is JobStatus.RUNNING
    assert list((tmp_path / "work").glob("retalking-attempt-*")) == []


def test_a_short_outage_of_the_object_store_does_not_cost_the_render(
    context: RunContext, submit: Callable[..., str]
) -> None:
    job_id = submit()
    tries: list[str] = []

    def put(key: str, path: Path, content_type: str) -> ObjectInfo:
        tries.append(key)
        if len(tries) < 3:
            raise ObjectStoreError("away")
        return context.objects.put_file(key, path, content_type)

    run_job(job_id, replace(context, objects=Interposed(context.objects, put_file=put)))
    job = context.store.jobs.get(job_id)
    assert (job.status, job.attempt, len(tries)) == (JobStatus.SUCCEEDED, 1, 5), "poster, preview, result; two failed"


def test_a_long_outage_of_the_object_store_costs_attempts_and_then_the_job(
    context: RunContext, submit: Callable[..., str]
) -> None:
    job_id = submit(max_attempts=2)

    def put(*_: object) -> ObjectInfo:
        raise ObjectStoreError("https://bucket/secret: refused")

    away = replace(context, objects=Interposed(context.objects, put_file=put))
    run_job(job_id, away)
    job = context.store.jobs.get(job_id)
    assert (job.status, job.attempt) == (JobStatus.QUEUED, 1)
    run_job(job_id, away)
    job = context.store.jobs.get(job_id)
    assert job.error is not None
    assert (job.status, job.attempt, job.error.code) == (JobStatus.FAILED, 2, "storage_failed")
    assert job.error.retryable
    assert "secret" not in job.error.message


def test_an_input_that_vanished_fails_the_job(context: RunContext, submit: Callable[..., str]) -> None:
    job_id = submit()
    context.objects.delete(input_key(job_id, "audio"))
    run_job(job_id, context)
    error = context.store.jobs.get(job_id).error
    assert error is not None
    assert error.code == "storage_failed"
    assert "no longer" in error.message


def test_a_cancel_that_comes_while_publishing_wins(context: RunContext, submit: Callable[..., str]) -> None:
    job_id = submit()

    def put(key: str, path: Path, content_type: str) -> ObjectInfo:
        info = context.objects.put_file(key, path, content_type)
        context.store.jobs.request_cancel(job_id, retention_s=60)
        return info

    run_job(job_id, replace(context, objects=Interposed(context.objects, put_file=put)))
    job = context.store.jobs.get(job_id)
    assert (job.status, job.result) == (JobStatus.CANCELED, None)
    assert results(context, job_id) == []


def test_a_lost_answer_does_not_cost_the_published_result(context: RunContext, submit: Callable[..., str]) -> None:
    """succeed() was done, the connection broke before the reply, and the repetition found the job over."""
    job_id = submit()
    calls: list[object] = []

    def succeed(*args: Any, **named: Any) -> object:
        calls.append(args)
        if len(calls) == 1:
            context.store.jobs.succeed(*args, **named)
            raise RedisConnectionError("broke off")
        raise LeaseLostError(job_id)

    run_job(job_id, replace(context, store=interposed_jobs(context.store, succeed=succeed)))
    job = context.store.jobs.get(job_id)
    assert job.status is JobStatus.SUCCEEDED
    assert job.result is not None
    assert set(results(context, job_id)) == {*published_keys(job.result.key)} - {
        curves_key(job.result.key),
        targets_key(job.result.key),
    }


def test_progress_never_falls_and_a_short_outage_of_redis_is_tolerated(
    context: RunContext, submit: Callable[..., str]
) -> None:
    job_id = submit(seed=Act.BRIEF)
    seen: list[float] = []

    def report(lease: Any, *, stage: str, progress: float, lease_s: float) -> bool:
        seen.append(progress)
        if len(seen) == 4:
            raise RedisConnectionError("away")
        return context.store.jobs.report(lease, stage=stage, progress=progress, lease_s=lease_s)

    run_job(job_id, replace(context, store=interposed_jobs(context.store, report=report)))
    assert context.store.jobs.get(job_id).status is JobStatus.SUCCEEDED
    assert seen == sorted(seen)
    # Three seconds of progress every 50 ms, told at most twice a second, and once a stage.
    assert 6 <= len(seen) <= 14


def test_a_shutdown_releases_the_job_uncounted(context: RunContext, submit: Callable[..., str]) -> None:
    job_id = submit(seed=Act.SLOW)
    context.notice.give(0.3)
    run_job(job_id, context)
    job = context.store.jobs.get(job_id)
    assert (job.status, job.attempt) == (JobStatus.QUEUED, 0)


def test_the_late_delete_of_an_attempt_spares_the_next_one(context: RunContext, submit: Callable[..., str]) -> None:
    """An attempt loses its lease, and the next one publishes and succeeds before the first one comes to delete what it
    had published itself."""
    job_id = submit(evaluate=["ssim"])
    going_down = ShutdownNotice()
    put_first: list[str] = []

    def put(key: str, path: Path, content_type: str) -> ObjectInfo:
        put_first.append(key)
        info = context.objects.put_file(key, path, content_type)
        if is_result(key):
            going_down.give(0.0)
        return info

    deleted: list[str] = []

    def is_handed_back() -> bool:
        """Its keeper may renew the lease in between."""
        context.store.jobs.abandon(job_id, context.worker_id)
        context.store.jobs.requeue_lost()
        return context.store.jobs.get(job_id).status is JobStatus.QUEUED

    def delete_late(key: str) -> None:
        if not deleted:
            wait_until(is_handed_back, what="the lease is lost")
            run_job(job_id, replace(context, worker_id="w2"))
        deleted.append(key)
        context.objects.delete(key)

    objects = Interposed(context.objects, put_file=put, delete=delete_late)
    run_job(job_id, replace(context, objects=objects, notice=going_down))
    job = context.store.jobs.get(job_id)
    assert (job.status, job.worker, job.attempt) == (JobStatus.SUCCEEDED, "w2", 2)
    # The result, and what of its excerpts and curves was uploaded beside it before the shutdown was seen.
    assert sorted(deleted) == sorted(put_first)
    assert any(is_result(key) for key in deleted)
    assert job.result is not None
    assert not set(deleted) & {*published_keys(job.result.key)}
    assert sorted(results(context, job_id)) == sorted({*published_keys(job.result.key)} - {targets_key(job.result.key)})


@pytest.mark.parametrize("verb", ["cancel", "release", "fail"])
def test_an_attempt_deletes_its_files_before_its_end_is_recorded(
    context: RunContext, submit: Callable[..., str], verb: str
) -> None:
    """A process that dies in between leaves a lease that expires; files of an ended job would stay as long as it."""
    job_id = submit(max_attempts=1)
    going_down = ShutdownNotice()

    def put(key: str, path: Path, content_type: str) -> ObjectInfo:
        info = context.objects.put_file(key, path, content_type)
        if verb == "release":
            going_down.give(0.0)
        elif verb == "fail" and is_result(key):
            raise ObjectStoreError("full")
        return info

    def report(*args: Any, stage: str, **named: Any) -> bool:
        if verb == "cancel" and stage == "publish":
            wait_until(lambda: results(context, job_id), what="something is published")
            context.store.jobs.request_cancel(job_id, retention_s=60)
        return context.store.jobs.report(*args, stage=stage, **named)

    left: list[list[str]] = []

    def end(*args: Any, **named: Any) -> object:
        left.append(results(context, job_id))
        return getattr(context.store.jobs, verb)(*args, **named)

    store = interposed_jobs(context.store, report=report, **{verb: end})
    objects = Interposed(context.objects, put_file=put)
    run_job(job_id, replace(context, store=store, objects=objects, notice=going_down))
    assert left == [[]]
    assert results(context, job_id) == []


def test_excerpts_that_cannot_be_made_do_not_cost_the_render(
    context: RunContext, submit: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tap, "PreviewClip", fail)
    job_id = submit()
    run_job(job_id, context)
    job = context.store.jobs.get(job_id)
    assert job.status is JobStatus.SUCCEEDED
    assert job.result is not None
    assert sorted(results(context, job_id)) == sorted([job.result.key, poster_key(job.result.key)])


def test_the_inputs_are_reported_as_they_were_read(
    context: RunContext, submit: Callable[..., str], clips: Clips
) -> None:
    job_id = submit()
    run_job(job_id, context)
    render = context.store.jobs.get(job_id).render
    assert render is not None
    assert set(render.inputs) == {"video", "audio"}
    for part, path in (("video", clips.video), ("audio", clips.audio)):
        assert render.inputs[part].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert render.inputs[part].duration_s > 0
    assert render.inputs["video"].width
    assert render.inputs["audio"].width is None


def test_curves_are_deleted_with_a_withdrawn_result(context: RunContext, submit: Callable[..., str]) -> None:
    job_id = submit(evaluate=["ssim"], max_attempts=1)

    def put(key: str, path: Path, content_type: str) -> ObjectInfo:
        if is_result(key):
            raise ObjectStoreError("full")
        return context.objects.put_file(key, path, content_type)

    run_job(job_id, replace(context, objects=Interposed(context.objects, put_file=put)))
    assert context.store.jobs.get(job_id).status is JobStatus.FAILED
    assert results(context, job_id) == []


def test_the_result_goes_to_s3(context: RunContext, submit: Callable[..., str], s3: S3Endpoint, clips: Clips) -> None:
    names = {name.removeprefix("RETALKING_").lower(): value for name, value in s3.env().items()}
    objects = open_objects(Settings(_env_file=None, **names))
    job_id = submit()
    for part, path in (("video", clips.video), ("audio", clips.audio)):
        objects.put_file(input_key(job_id, part), path, "application/octet-stream")
    run_job(job_id, replace(context, objects=objects))
    job = context.store.jobs.get(job_id)
    assert job.status is JobStatus.SUCCEEDED, job.error
    assert job.result is not None
    assert objects.info(job.result.key).size_bytes == job.result.size_bytes


def test_an_input_that_is_unreachable_for_a_moment_costs_no_attempt(
    context: RunContext, submit: Callable[..., str]
) -> None:
    job_id = submit()
    tries: list[str] = []

    def fetch(key: str, path: Path, max_bytes: int | None) -> ObjectInfo:
        tries.append(key)
        if len(tries) == 1:
            raise ObjectStoreError("away")
        return context.objects.fetch(key, path, max_bytes)

    run_job(job_id, replace(context, objects=Interposed(context.objects, fetch=fetch)))
    job = context.store.jobs.get(job_id)
    assert (job.status, job.attempt, len(tries)) == (JobStatus.SUCCEEDED, 1, 3)


def test_a_demuxer_that_hangs_while_probing_loses_the_lease(
    context: RunContext, submit: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the render as well as in it, silence for stall_s is the end; the process would be ended a lease later."""
    hurried = replace(context, settings=context.settings.model_copy(update={"stall_s": 0.5}))
    job_id = submit()
    monkeypatch.setattr("retalking_core.engine.plan_clip", lambda *inputs: (time.sleep(1.2), plan_clip(*inputs))[1])
    run_job(job_id, hurried)
    assert context.store.jobs.get(job_id).status is JobStatus.RUNNING
    time.sleep(1.5)
    assert [job.id for job in context.store.jobs.requeue_lost()] == [job_id]


def test_a_cancel_stops_the_evaluation(
    context: RunContext, submit: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that would never end by itself; its progress is that of the job."""
    job_id = submit(evaluate=["ssim"])

    def endless(measurement: Measurement, *_: object) -> None:
        for number in count():
            measurement.progress(Progress("evaluate", 0.5, number, 0))
            time.sleep(0.01)

    def report(_: object, *, stage: str, progress: float, **__: object) -> bool:
        return stage == "evaluate" and progress == pytest.approx(0.9)

    monkeypatch.setattr(evaluation, "measure", endless)
    run_job(job_id, replace(context, store=interposed_jobs(context.store, report=report)))
    assert context.store.jobs.get(job_id).status is JobStatus.CANCELED


def test_a_machine_without_threads(context: RunContext, submit: Callable[..., str]) -> None:
    """No address space holds such a stack, so the kernel refuses each thread. The job is requeued; at its
    last attempt it fails by name."""
    job_id, last_id = submit(), submit(max_attempts=1)
    usual = threading.stack_size(1 << 46)
    try:
        for each in (job_id, last_id):
            run_job(each, context)
    finally:
        threading.stack_size(usual)
    assert context.store.jobs.get(job_id).status is JobStatus.QUEUED
    failed = context.store.jobs.get(last_id)
    assert failed.error is not None
    assert (failed.error.code, failed.error.retryable) == ("threads_exhausted", True)
    run_job(job_id, context)
    assert context.store.jobs.get(job_id).status is JobStatus.SUCCEEDED


def other_worker(context: RunContext, *names: str) -> WorkerInfo:
    offered = [ScriptedEngine(Path(), name).capabilities.public() for name in names]
    return WorkerInfo(id="other", engines=offered, started_at=datetime.now(UTC))


def test_a_job_of_an_engine_that_only_another_worker_offers_is_left_to_it(
    context: RunContext, submit: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until that worker is gone: then nobody can render it, and it ends with the reason."""
    job_id, sent, pauses = submit(engine="videoretalking"), [], []
    monkeypatch.setattr(runner.time, "sleep", pauses.append)
    context = replace(context, send_again=lambda job: sent.append(job.id))
    context.store.workers.report(other_worker(context, "preview", "videoretalking"), 60)
    run_job(job_id, context)
    assert (sent, pauses) == ([job_id], [])
    run_job(job_id, context)
    assert (sent, pauses) == ([job_id, job_id], [runner.HAND_ON_PAUSE_S]), "it does not circle"
    job = context.store.jobs.get(job_id)
    assert (job.status, job.attempt, job.fence) == (JobStatus.QUEUED, 0, 0)

    context.store.workers.report(other_worker(context, "preview"), 60)
    run_job(job_id, context)
    failed = context.store.jobs.get(job_id)
    assert failed.error is not None
    assert (failed.error.code, failed.error.retryable) == ("engine_unavailable", True)


def test_auto_is_left_to_the_worker_that_offers_the_engine_of_the_deployment(
    context: RunContext, submit: Callable[..., str]
) -> None:
    named = replace(context, settings=context.settings.model_copy(update={"engine": "videoretalking"}))
    sent: list[str] = []
    context.store.workers.report(other_worker(context, "videoretalking"), 60)
    job_id = submit()
    run_job(job_id, replace(named, send_again=lambda job: sent.append(job.id)))
    assert sent == [job_id]
    run_job(job_id, context)
    assert context.store.jobs.get(job_id).status is JobStatus.SUCCEEDED, "any engine is right for `auto` of `auto`"
