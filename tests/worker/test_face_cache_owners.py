"""Jobs of one API key share the face cache; a hit reveals nothing about other keys."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs.local_objects import LocalObjectStore
from jobs.messages import make_celery
from jobs.models import InputRef, JobRequest, JobSpec, JobStatus
from jobs.names import FACE_CACHE_PREFIX, input_key, new_job_id
from jobs.settings import Settings
from jobs.store import JobStore, Origin
from jobs.store.keys import ApiKey
from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
from retalking_core.evaluation.clip import EvaluationModels
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.media.limits import MediaLimits
from tests.engines.stand_ins import StandIns
from tests.faces.clips import portrait, write_clip
from tests.preview.speech import make_sound, write_wav
from worker.context import RunContext
from worker.engines import EngineSet
from worker.face_cache import CacheLimits, StoredFaceCache
from worker.janitor import Janitor
from worker.runner import run_job
from worker.supervision import ShutdownNotice

ALICE, BOB = 16 * "a", 16 * "b"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = [portrait(80, 240, 200, 116 + 3 * k, 90) for k in range(3)]
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", pictures)


@pytest.fixture
def context(job_store: JobStore, tmp_path: Path) -> RunContext:
    settings = Settings(_env_file=None, data_dir=tmp_path / "data", work_dir=tmp_path / "work")
    objects, limits = LocalObjectStore(tmp_path / "objects"), CacheLimits(1 << 30, 3600.0)
    tracker = DlibFaceTracker()
    tracker.warm_up()
    cache = StoredFaceCache(job_store, objects, limits, tmp_path)
    return RunContext(
        settings=settings,
        store=job_store,
        objects=objects,
        engines=EngineSet({"videoretalking": VideoRetalkingEngine(StandIns(), tracker=tracker, cache=cache)}),
        limits=MediaLimits(),
        worker_id="w1",
        notice=ShutdownNotice(),
        models=EvaluationModels(tmp_path / "models"),
    )


@pytest.fixture
def outcome_for(context: RunContext, video: Path, tmp_path: Path) -> Callable[[str], str]:
    """What the face cache had for a job of this owner; every job has the same video."""
    speech = write_wav(tmp_path / "speech.wav", make_sound([("a", 0.12)]))

    def run(owner: str) -> str:
        job_id, refs = new_job_id(), {}
        for part, path in (("video", video), ("audio", speech)):
            context.objects.put_file(input_key(job_id, part), path, "application/octet-stream")
            refs[part] = InputRef(kind="object", key=input_key(job_id, part))
        spec = JobSpec(**refs, request=JobRequest(evaluate=[]))
        context.store.jobs.create(job_id, spec, max_attempts=1, origin=Origin(owner=owner, live_jobs=9))
        run_job(job_id, context)
        job = context.store.jobs.get(job_id)
        assert job.status is JobStatus.SUCCEEDED, job.error
        assert job.render is not None
        return job.render.face_cache

    return run


def test_the_second_key_with_the_same_video_sees_a_miss(outcome_for: Callable[[str], str]) -> None:
    assert [outcome_for(owner) for owner in (ALICE, BOB, ALICE, BOB)] == ["miss", "miss", "hit", "hit"]


def test_without_keys_all_jobs_share_entries(outcome_for: Callable[[str], str]) -> None:
    assert [outcome_for(owner) for owner in ("", "", ALICE, "")] == ["miss", "hit", "miss", "hit"]


def test_the_entries_of_a_revoked_key_are_deleted(context: RunContext, outcome_for: Callable[[str], str]) -> None:
    for owner in (ALICE, BOB, ""):
        outcome_for(owner)
    for owner in (ALICE, BOB):
        context.store.keys.add(
            ApiKey(id=owner, name=owner, digest=secrets.token_hex(32), scopes=frozenset(), created_at=datetime.now(UTC))
        )
    context.store.keys.revoke(ALICE)
    Janitor(make_celery(context.settings), context.store, context.objects, context.settings).sweep_face_cache()
    entries = {name.split("/")[1] for name in context.objects.list_keys(FACE_CACHE_PREFIX)}
    assert sorted(entry[:-64] for entry in entries) == ["", BOB]
    assert [outcome_for(owner) for owner in (ALICE, BOB, "")] == ["miss", "hit", "hit"]
