"""Helpers of a split job: which segments they take, what they leave to the owner, and when they stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.local_objects import LocalObjectStore
from jobs.models import InputRef, JobRequest, JobSpec
from jobs.names import input_key, new_job_id, scene_key, segments_prefix
from jobs.objects import ObjectInfo
from jobs.settings import Settings
from jobs.store import JobStore, Lease, SegmentLease, SegmentOutcome, SplitPlan
from retalking_core.clip_plan import plan_clip
from retalking_core.errors import EngineFaultError
from retalking_core.evaluation.clip import EvaluationModels
from retalking_core.media.limits import DEFAULT_LIMITS, MediaLimits
from retalking_core.options import RenderOptions
from retalking_core.progress import ignore_progress
from tests.jobs.making import add_job
from tests.media.clips import make_video, make_wav
from tests.worker.segmented_engine import SlowEngine
from tests.worker.test_runner import Interposed
from worker.context import RunContext
from worker.engines import EngineSet
from worker.splitting import help_job, renderer_of
from worker.supervision import ShutdownNotice


@pytest.fixture
def context(job_store: JobStore, tmp_path: Path) -> RunContext:
    """Of a helper."""
    engine = SlowEngine(tmp_path / "marks")
    engine.warm_up()
    return RunContext(
        settings=Settings(_env_file=None, data_dir=tmp_path / "data", work_dir=tmp_path / "work", lease_s=1.5),
        store=job_store,
        objects=LocalObjectStore(tmp_path / "objects"),
        engines=EngineSet({"preview": engine}),
        limits=MediaLimits(),
        worker_id="helper",
        notice=ShutdownNotice(),
        models=EvaluationModels(tmp_path / "models"),
        storage_pauses_s=(0.05,),
    )


@pytest.fixture
def owner(context: RunContext, tmp_path: Path) -> Lease:
    """The lease of a job that was analyzed and split: 300 frames, two segments."""
    video = make_video(tmp_path / "face.mp4", frames=30, size=(64, 48))
    speech = make_wav(tmp_path / "speech.wav", 12.0, rate_hz=8000)
    job_id, engine = new_job_id(), context.engines.by_name["preview"]
    key = input_key(job_id, "video")
    context.objects.put_file(key, video, "video/mp4")
    ref = InputRef(kind="object", key=key)
    context.store.jobs.create(job_id, JobSpec(video=ref, audio=ref, request=JobRequest()), max_attempts=3)
    lease = context.store.jobs.claim(job_id, "owner", 30.0)
    assert lease is not None
    with plan_clip(video, speech, RenderOptions(), DEFAULT_LIMITS) as clip:
        engine.analyze_clip(clip, tmp_path / "scene", RenderOptions(), ignore_progress)
    context.objects.put_file(scene_key(job_id, 1), tmp_path / "scene", "application/octet-stream")
    plan = SplitPlan(
        engine="preview",
        renderer=renderer_of(engine),
        frames=300,
        segments=2,
        scene_key=scene_key(job_id, 1),
        video_key=key,
        analyzed=0.1,
    )
    context.store.segments.open(lease, plan)
    return lease


def files(context: RunContext, lease: Lease) -> list[str]:
    """Of segments, without the scene."""
    return [key for key in context.objects.list_keys(segments_prefix(lease.job_id)) if key.endswith(".mp4")]


def take_over(context: RunContext, owner: Lease) -> list[SegmentLease]:
    """Everything that is left, as its owner gets it."""
    taken = []
    while segment := context.store.segments.claim(owner.job_id, "owner", 30.0, owner=owner):
        taken.append(segment)
    return taken


def test_a_helper_renders_every_segment_and_leaves_no_folder(context: RunContext, owner: Lease) -> None:
    help_job(owner.job_id, context)
    state = context.store.segments.state(owner.job_id)
    assert state.is_complete
    assert [outcome.key for outcome in state.done.values()] == sorted(files(context, owner))
    assert {outcome.worker for outcome in state.done.values()} == {"helper"}
    assert list(context.settings.work_dir.glob("retalking-attempt-*")) == []
    help_job(owner.job_id, context)  # a second message finds nothing to do
    assert len(files(context, owner)) == 2


def test_a_failed_segment_is_left_to_the_owner_and_stops_the_helper(context: RunContext, owner: Lease) -> None:
    def break_down(*_: object) -> None:
        raise EngineFaultError("The picture is not a number.")

    engine = context.engines.by_name["preview"]
    engine.render_segment = break_down
    help_job(owner.job_id, context)
    assert [(each.number, each.attempt) for each in take_over(context, owner)] == [(0, 2), (1, 1)]
    assert files(context, owner) == []
    assert list(context.settings.work_dir.glob("retalking-attempt-*")) == []


def test_a_helper_stops_when_a_job_waits(context: RunContext, owner: Lease) -> None:
    add_job(context.store)
    help_job(owner.job_id, context)
    assert list(context.store.segments.state(owner.job_id).done) == [0]


def test_a_helper_of_another_version_claims_nothing(context: RunContext, owner: Lease) -> None:
    engine = context.engines.by_name["preview"]
    engine.capabilities = engine.capabilities.model_copy(update={"version": "older"})
    help_job(owner.job_id, context)
    assert [each.attempt for each in take_over(context, owner)] == [1, 1]


def test_a_helper_that_is_shut_down_releases_its_segment_uncounted(context: RunContext, owner: Lease) -> None:
    context.notice.give(0.0)
    help_job(owner.job_id, context)
    segment = context.store.segments.claim(owner.job_id, "other", 30.0)
    assert (segment.number, segment.attempt) == (0, 1)


def test_a_late_writer_loses_and_deletes_its_own_file(context: RunContext, owner: Lease) -> None:
    """While it stores its pictures, its lease runs out and the owner makes the segment again."""
    redone = SegmentOutcome(key="the-owners", worker="owner")

    def put_late(key: str, path: Path, content_type: str) -> ObjectInfo:
        info = context.objects.put_file(key, path, content_type)
        time.sleep(1.6)
        segment = context.store.segments.claim(owner.job_id, "owner", 30.0, owner=owner)
        assert (segment.number, segment.attempt) == (0, 2)
        context.store.segments.finish(segment, redone)
        return info

    mute: Callable[..., bool] = lambda *_: False  # noqa: E731
    store = Interposed(context.store, segments=Interposed(context.store.segments, report=mute))
    objects = Interposed(context.objects, put_file=put_late)
    help_job(owner.job_id, replace(context, store=store, objects=objects))
    assert context.store.segments.state(owner.job_id).done == {0: redone}
    assert files(context, owner) == []
