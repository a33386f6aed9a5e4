"""A job of two speakers by the neural engine, from its claim to its result, with light stand-in networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jobs.local_objects import LocalObjectStore
from jobs.models import InputRef, JobOutput, JobRequest, JobSegment, JobSpec, JobStatus
from jobs.names import input_key, new_job_id
from jobs.settings import Settings
from jobs.store import JobStore
from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
from retalking_core.evaluation.clip import EvaluationModels
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.media.limits import DEFAULT_LIMITS, MediaLimits
from retalking_core.media.reader import open_video
from tests.engines.stand_ins import StandIns, speaking_enet
from tests.media.dialogs import WIDTH, make_dialog
from worker.context import RunContext
from worker.engines import EngineSet
from worker.runner import run_job
from worker.supervision import ShutdownNotice

FRAMES = 16


def test_a_job_of_two_speakers_by_the_neural_engine(job_store: JobStore, tmp_path: Path) -> None:
    dialog = make_dialog(tmp_path, seconds=FRAMES / 25)
    networks = StandIns(enet=speaking_enet)
    context = RunContext(
        settings=Settings(_env_file=None, data_dir=tmp_path / "data", work_dir=tmp_path / "work", lease_s=60),
        store=job_store,
        objects=LocalObjectStore(tmp_path / "objects"),
        engines=EngineSet({"videoretalking": VideoRetalkingEngine(networks, tracker=DlibFaceTracker())}),
        limits=MediaLimits(),
        worker_id="w1",
        notice=ShutdownNotice(),
        models=EvaluationModels(tmp_path / "models"),
        storage_pauses_s=(0.01,),
    )
    job_id = new_job_id()
    files = {"video": dialog.video, "audio_1": dialog.first}
    refs = {part: InputRef(kind="object", key=input_key(job_id, part)) for part in files}
    for part, path in files.items():
        context.objects.put_file(input_key(job_id, part), path, "application/octet-stream")
    segments = [
        JobSegment(audio="audio_1", start_s=0.0, end_s=0.52, face="left_most"),
        JobSegment(audio="audio_1", start_s=0.12, end_s=0.64, face="right_most", upper_face="sad"),
    ]
    request = JobRequest(engine="videoretalking", output=JobOutput(crf=4))
    context.store.jobs.create(job_id, JobSpec.of(refs, segments, request), max_attempts=1)
    run_job(job_id, context)

    job = context.store.jobs.get(job_id)
    assert job.status is JobStatus.SUCCEEDED, job.error
    assert job.render is not None
    assert job.result is not None
    assert [each.face_coverage for each in job.render.segments] == [1, 1]
    assert sum(networks.asked["enet"]) == 26, "13 frames of each face"
    values = {metric.name: metric for metric in job.evaluation or []}
    assert [each.value for each in values["face_coverage"].segments] == [1, 1]
    for each in values["mouth_target_correlation"].segments:
        assert (each.value, each.reason) == (None, "the engine states no mouth target")
    assert (values["psnr_outside_face"].value or 0) > 35
    context.objects.fetch(job.result.key, result := tmp_path / "result.mp4")
    frames = zip(*(open_video(path, DEFAULT_LIMITS).frames() for path in (result, dialog.video)), strict=True)
    changed = np.array([np.abs(one.y.astype(int) - other.y) for one, other in frames])
    # Each face moves on its own frames; else only the codec changes it.
    left, right = changed[:, :, : WIDTH // 2].max(axis=(1, 2)), changed[:, :, WIDTH // 2 :].max(axis=(1, 2))
    assert left[13:].max() < 20 < left[4:10].min()
    assert right[:3].max() < 20 < right[6:13].min()
