"""When a job is evaluated: before it succeeds, after it, by another worker than the one that rendered, or never."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.local_objects import LocalObjectStore
from jobs.models import InputRef, Job, JobRequest, JobSegment, JobSpec, JobStatus
from jobs.names import curves_key, input_key, job_prefix, new_job_id, targets_key
from jobs.objects import ObjectStoreError
from jobs.settings import Settings
from jobs.store import JobStore
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.evaluation.clip import EvaluationModels
from retalking_core.evaluation.measurement import EarlyLooks
from retalking_core.evaluation.metrics import available_metrics
from retalking_core.media.limits import MediaLimits
from tests.faces.clips import backdrop, place_face, write_clip
from tests.media.dialogs import make_dialog
from tests.preview.speech import talk, write_wav
from tests.services import wait_until
from tests.worker.conftest import Stack, running
from tests.worker.test_runner import Interposed
from worker import evaluation as worker_evaluation
from worker import runner
from worker.context import RunContext
from worker.engines import EngineSet
from worker.evaluation import resume_evaluation
from worker.janitor import Janitor
from worker.runner import run_job
from worker.supervision import ShutdownNotice


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two faces of which the smaller one is asked for: without what the engine stated, the larger would be measured."""
    folder = tmp_path_factory.mktemp("evaluation")
    picture = backdrop(680, 320)
    place_face(picture, 130, 170, 150)
    place_face(picture, 110, 510, 160)
    return {
        "video": write_clip(folder / "duo.mp4", [picture] * 12),
        "audio": write_wav(folder / "talk.wav", talk(1.0)),
    }


@pytest.fixture
def context(job_store: JobStore, tmp_path: Path) -> RunContext:
    settings = Settings(_env_file=None, data_dir=tmp_path / "data", work_dir=tmp_path / "work", lease_s=60, stall_s=300)
    return RunContext(
        settings=settings,
        store=job_store,
        objects=LocalObjectStore(tmp_path / "objects"),
        engines=EngineSet({"preview": PreviewEngine()}),
        limits=MediaLimits(),
        worker_id="w1",
        notice=ShutdownNotice(),
        models=EvaluationModels(tmp_path / "models"),
        storage_pauses_s=(0.01,),
    )


def create(context: RunContext, inputs: dict[str, Path], segments: Sequence[JobSegment] = (), **asked: Any) -> str:
    job_id = new_job_id()
    refs: dict[str, InputRef] = {}
    for part, path in inputs.items():
        context.objects.put_file(input_key(job_id, part), path, "application/octet-stream")
        refs[part] = InputRef(kind="object", key=input_key(job_id, part))
    spec = JobSpec.of(refs, segments, JobRequest(face="right_most", **asked))
    context.store.jobs.create(job_id, spec, max_attempts=3)
    return job_id


def curves_of(context: RunContext, job: Job) -> bytes:
    assert job.result is not None
    return b"".join(context.objects.read(curves_key(job.result.key)))


def events_of(context: RunContext, job_id: str) -> list[str]:
    return [event.event for event in context.store.jobs.events(job_id, after=None)]


def test_numbers_and_curves_are_the_same_on_all_ways(
    context: RunContext, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    inline, after, resumed = (create(context, inputs, evaluate_policy=how) for how in ("inline", "after", "after"))
    run_job(inline, context)
    want = context.store.jobs.get(inline)
    assert want.evaluation is not None
    assert [metric.name for metric in want.evaluation] == available_metrics(None)
    assert "job.evaluated" not in events_of(context, inline)

    run_job(after, context)
    monkeypatch.setattr(runner, "evaluate_after", lambda *_: None)  # a worker that does not come to it
    run_job(resumed, context)
    pending = context.store.jobs.get(resumed)
    assert (pending.status, pending.evaluation, pending.evaluation_pending) == (JobStatus.SUCCEEDED, None, True)
    assert context.store.jobs.abandon(resumed, "w1") == 1
    resume_evaluation(resumed, replace(context, worker_id="w2"))

    for job_id in (after, resumed):
        job = context.store.jobs.get(job_id)
        assert job.evaluation == want.evaluation
        assert curves_of(context, job) == curves_of(context, want)
        assert events_of(context, job_id)[-2:] == ["job.succeeded", "job.evaluated"]
    resume_evaluation(resumed, context)
    assert events_of(context, resumed).count("job.evaluated") == 1


def test_the_result_is_uploaded_beside_its_evaluation(
    context: RunContext, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a cancel during the evaluation leaves nothing of it."""
    measure, canceled = worker_evaluation.measure, []

    def measure_late(*given: Any) -> Any:
        def is_published() -> bool:
            keys = list(context.objects.list_keys(job_prefix(job_id)))
            return all(any(key.endswith(name) for key in keys) for name in (".mp4", "poster.jpg", "preview.mp4"))

        wait_until(is_published, 30, 0.01, "result and excerpts are uploaded")
        if canceled:
            context.store.jobs.request_cancel(job_id, retention_s=60)
        return measure(*given)

    monkeypatch.setattr(worker_evaluation, "measure", measure_late)
    job_id = create(context, inputs)
    run_job(job_id, context)
    assert context.store.jobs.get(job_id).status is JobStatus.SUCCEEDED

    canceled.append(True)
    job_id = create(context, inputs)
    run_job(job_id, context)
    assert context.store.jobs.get(job_id).status is JobStatus.CANCELED
    assert not list(context.objects.list_keys(f"{job_prefix(job_id)}result/"))


def test_values_of_segments_are_the_same_on_all_ways(
    context: RunContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialog = make_dialog(tmp_path, seconds=1.6)
    segments = [
        JobSegment(audio="audio_2", start_s=0.4, end_s=1.4, face="right_most"),
        JobSegment(audio="audio_1", start_s=0.2, end_s=1.2, face="left_most"),
    ]
    files = {"video": dialog.video, "audio_1": dialog.first, "audio_2": dialog.second}
    inline, after, resumed = (
        create(context, files, segments, evaluate_policy=how) for how in ("inline", "after", "after")
    )
    seen: list[set[str]] = []
    findings = EarlyLooks.findings
    monkeypatch.setattr(
        EarlyLooks, "findings", lambda self, clip: seen.append({*(found := findings(self, clip))}) or found
    )
    run_job(inline, context)
    assert seen == [{"lines", "outside", "ssim"}], "from the frames as they are rendered"
    want = context.store.jobs.get(inline)
    values = {metric.name: metric for metric in want.evaluation or []}
    assert [len(values[name].segments) for name in ("mouth_speech_correlation", "face_coverage", "ssim")] == [2, 2, 0]
    for segment in values["mouth_target_correlation"].segments:
        assert (segment.value or 0) > 0.6
    assert values["mouth_target_correlation"].value is None
    assert (values["psnr_outside_face"].value or 0) > 30

    run_job(after, context)
    monkeypatch.setattr(runner, "evaluate_after", lambda *_: None)
    run_job(resumed, context)
    assert context.store.jobs.abandon(resumed, "w1") == 1
    resume_evaluation(resumed, replace(context, worker_id="w2"))
    for job_id in (after, resumed):
        assert context.store.jobs.get(job_id).evaluation == want.evaluation


def test_inline_numbers_come_from_the_frames_as_they_are_rendered(
    context: RunContext, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    findings = EarlyLooks.findings

    def watched(self: EarlyLooks, clip: Any) -> Any:
        found = findings(self, clip)
        seen.append(sorted(found))  # now: the rest is added later
        return found

    monkeypatch.setattr(EarlyLooks, "findings", watched)
    run_job(create(context, inputs), context)
    assert seen == [["outside", "points", "sharpness", "ssim"]]


def test_none_evaluates_nothing(context: RunContext, inputs: dict[str, Path]) -> None:
    job_id = create(context, inputs, evaluate_policy="none")
    run_job(job_id, context)
    job = context.store.jobs.get(job_id)
    assert (job.status, job.evaluation, job.evaluation_pending) == (JobStatus.SUCCEEDED, [], False)


def test_a_failed_evaluation_is_tried_again_and_given_up_in_the_end(
    context: RunContext, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with the store or the process is no property of the clip."""

    def full(*_: object) -> None:
        raise ObjectStoreError("full")

    monkeypatch.setattr(worker_evaluation, "_evaluate", full)
    job_id = create(context, inputs, evaluate_policy="after", evaluate=["ssim"])
    run_job(job_id, context)
    for _ in range(worker_evaluation.MAX_ATTEMPTS - 1):
        assert context.store.jobs.get(job_id).evaluation_pending
        resume_evaluation(job_id, context)
    resume_evaluation(job_id, context)
    (metric,) = context.store.jobs.get(job_id).evaluation or []
    assert (metric.name, metric.value) == ("ssim", None)
    assert "attempts" in str(metric.reason)
    assert events_of(context, job_id).count("job.evaluated") == 1


def test_a_worker_that_shuts_down_hands_the_evaluation_back(
    context: RunContext, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(worker_evaluation, "_evaluate", terminated)
        job_id = create(context, inputs, evaluate_policy="after")
        with pytest.raises(SystemExit):
            run_job(job_id, context)
    job = context.store.jobs.get(job_id)
    assert (job.status, job.evaluation_pending) == (JobStatus.SUCCEEDED, True)
    assert job.result is not None
    assert context.objects.info(job.result.key).size_bytes == job.result.size_bytes
    resume_evaluation(job_id, replace(context, worker_id="w2"))
    assert context.store.jobs.get(job_id).evaluation


def test_a_job_deleted_while_it_is_evaluated_leaves_no_files(context: RunContext, inputs: dict[str, Path]) -> None:
    job_id = create(context, inputs, evaluate_policy="after")

    def put(key: str, path: Path, content_type: str) -> object:
        if "curves" in key:  # the caller deletes it just now
            context.objects.delete_prefix(job_prefix(job_id))
            context.store.jobs.delete(job_id)
        return context.objects.put_file(key, path, content_type)

    run_job(job_id, replace(context, objects=Interposed(context.objects, put_file=put)))
    assert list(context.objects.list_keys(job_prefix(job_id))) == []


def test_an_attempt_that_is_canceled_at_the_end_leaves_no_files(context: RunContext, inputs: dict[str, Path]) -> None:
    job_id = create(context, inputs, evaluate_policy="after")

    def put(key: str, path: Path, content_type: str) -> object:
        if key.endswith(".mp4"):
            context.store.jobs.request_cancel(job_id, retention_s=60)
        return context.objects.put_file(key, path, content_type)

    run_job(job_id, replace(context, objects=Interposed(context.objects, put_file=put)))
    job = context.store.jobs.get(job_id)
    assert (job.status, job.evaluation_pending) == (JobStatus.CANCELED, False)
    assert list(context.objects.list_keys(f"{job_prefix(job_id)}result/")) == []


def test_what_the_engine_stated_is_stored_only_where_it_is_needed(context: RunContext, inputs: dict[str, Path]) -> None:
    keys: dict[str, Callable[[], list[str]]] = {}
    for how in ("inline", "after"):
        job_id = create(context, inputs, evaluate_policy=how, evaluate=["ssim"])
        run_job(job_id, context)
        result = context.store.jobs.get(job_id).result
        assert result is not None
        keys[how] = [key for key in context.objects.list_keys(job_prefix(job_id)) if key == targets_key(result.key)]
    assert [len(keys[how]) for how in ("inline", "after")] == [0, 1]


def test_a_worker_killed_between_success_and_evaluation_loses_and_doubles_nothing(stack: Stack, tmp_path: Path) -> None:
    janitor = Janitor(stack.celery, stack.store, stack.objects, stack.settings)
    job_id = stack.create(evaluate=["ssim", "av_duration_difference"], evaluate_policy="after")
    with running("tests.worker.dying_evaluation_app", stack, tmp_path / "worker.log") as worker:
        stack.send(job_id)
        job = stack.finish(job_id)
        assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)
        child = job.worker

        def is_evaluated() -> bool:
            janitor.resume_evaluations()
            return not stack.store.jobs.get(job_id).evaluation_pending

        wait_until(is_evaluated, 60, what="the evaluation by the next process")
        assert worker.is_alive()
    done = stack.store.jobs.get(job_id)
    assert (done.attempt, done.fence, done.worker) == (1, 1, child), "it was not rendered again"
    values = {metric.name: metric.value for metric in done.evaluation or []}
    assert values.keys() == {"ssim", "av_duration_difference"}
    assert np.isfinite(list(values.values())).all()
    told = [event.event for event in stack.store.jobs.events(job_id, after=None)]
    assert [told.count(name) for name in ("job.started", "job.succeeded", "job.evaluated")] == [1, 1, 1]
