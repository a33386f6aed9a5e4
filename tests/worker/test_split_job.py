"""Split jobs, rendered by several worker processes as deployed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import ANY

import av
import numpy as np
import pytest

from jobs.models import Job, JobStatus
from jobs.names import segments_prefix
from tests.media.clips import make_video, make_wav
from tests.services import wait_until
from tests.worker.conftest import Clips, Stack, WorkerProcess, make_stack, running
from worker.janitor import Janitor

SEGMENTED = "tests.worker.segmented_app"
FPS = 25


def make_split_stack(redis_url: str, folder: Path, seconds: float, **settings: str) -> Stack:
    clips = Clips(
        make_video(folder / "face.mp4", frames=30, size=(64, 48)),
        make_wav(folder / "speech.wav", seconds, rate_hz=8000),
    )
    return make_stack(redis_url, folder, clips, RETALKING_SPLIT_MIN_S="5", **settings)


@pytest.fixture(scope="module")
def split_stack(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """Jobs of 30 s: 750 frames, four segments."""
    return make_split_stack(redis_url, tmp_path_factory.mktemp("split_stack"), 30.0)


@pytest.fixture(scope="module")
def first(split_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with running(SEGMENTED, split_stack, tmp_path_factory.mktemp("log") / "first.log") as process:
        yield process


@pytest.fixture(scope="module")
def whole(split_stack: Stack, first: WorkerProcess) -> Job:
    """What one worker alone makes of the clip."""
    return split_stack.finish(split_stack.submit(), timeout_s=60)


@pytest.fixture(scope="module")
def second(split_stack: Stack, whole: Job, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """Started after `whole`, which must be alone."""
    with running(SEGMENTED, split_stack, tmp_path_factory.mktemp("log") / "second.log") as process:
        yield process


@pytest.fixture(autouse=True)
def no_marks(split_stack: Stack) -> None:
    for mark in split_stack.marks.glob("*"):
        mark.unlink()


def marks(stack: Stack) -> list[str]:
    """What the engines began since the test did."""
    return sorted(path.name.partition(".")[0] for path in stack.marks.iterdir())


def sweep(stack: Stack) -> None:
    Janitor(stack.celery, stack.store, stack.objects, stack.settings).delete_segments()


def segment_files(stack: Stack, job_id: str) -> list[str]:
    return list(stack.objects.list_keys(segments_prefix(job_id)))


def decoded(stack: Stack, job: Job, kind: str) -> list[np.ndarray]:
    assert job.result is not None, job.error
    path = stack.settings.data_dir / f"taken-{job.id}.mp4"
    stack.objects.fetch(job.result.key, path)
    with av.open(str(path)) as media:
        return [frame.to_ndarray() for frame in media.decode(**{kind: 0})]


def assert_same_media(stack: Stack, job: Job, other: Job) -> None:
    for kind in ("video", "audio"):
        seen, expected = decoded(stack, job, kind), decoded(stack, other, kind)
        assert len(seen) == len(expected)
        assert all(np.array_equal(a, b) for a, b in zip(seen, expected, strict=True))


def holders(stack: Stack, job_id: str) -> dict[str, int]:
    """Segment in work, by the process id of its worker."""
    fields = stack.store.redis.client.hgetall(stack.store.redis.key("split", job_id))
    return {
        fields[f"worker:{name[5:]}"].rsplit("-", 2)[1]: int(name[5:]) for name in fields if name.startswith("held:")
    }


def test_a_single_worker_does_not_split(split_stack: Stack, whole: Job) -> None:
    assert whole.status is JobStatus.SUCCEEDED, whole.error
    assert whole.render is not None
    assert whole.render.notes == []
    assert segment_files(split_stack, whole.id) == []


def test_a_split_job_gives_the_same_frames_and_sound(split_stack: Stack, whole: Job, second: WorkerProcess) -> None:
    job = split_stack.finish(split_stack.submit(seed=4), timeout_s=60)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1), job.error
    assert job.render is not None
    assert job.render.notes[0].code == "split_render"
    assert "4 segments by 2 workers" in job.render.notes[0].sentence
    assert job.render.stage_times_s == {"read": ANY, "analyze": 0.5, "draw": 4.0}
    assert marks(split_stack) == ["analyze", "join", "segment-0", "segment-1", "segment-2", "segment-3"]
    assert_same_media(split_stack, job, whole)
    told = [
        event.progress for event in split_stack.store.jobs.events(job.id, after=None) if event.event == "job.progress"
    ]
    assert told == sorted(told)
    assert len({round(each, 1) for each in told}) > 4
    assert [event.event for event in split_stack.store.jobs.events(job.id, after=None)].count("job.succeeded") == 1
    assert segment_files(split_stack, job.id) != []
    sweep(split_stack)
    assert segment_files(split_stack, job.id) == []
    assert split_stack.objects.info(job.result.key).size_bytes == job.result.size_bytes
    split_stack.check_no_folder_stays()


def test_a_short_job_is_not_split(split_stack: Stack, second: WorkerProcess, tmp_path: Path) -> None:
    job = split_stack.finish(split_stack.submit(audio=make_wav(tmp_path / "short.wav", 4.0)), timeout_s=30)
    assert job.status is JobStatus.SUCCEEDED, job.error
    assert marks(split_stack) == ["whole"]


def test_a_cancel_stops_every_worker(split_stack: Stack, second: WorkerProcess) -> None:
    job_id = split_stack.submit(seed=30)
    wait_until(lambda: len(holders(split_stack, job_id)) == 2, 20, what="two workers on it")
    split_stack.store.jobs.request_cancel(job_id, retention_s=60)
    job = split_stack.finish(job_id, timeout_s=15)
    assert job.status is JobStatus.CANCELED
    wait_until(lambda: not any(worker.busy_with for worker in split_stack.store.workers.live()), 5, what="idle workers")
    assert split_stack.store.segments.state(job_id) is None
    sweep(split_stack)
    assert segment_files(split_stack, job_id) == []
    split_stack.check_no_folder_stays()


@pytest.mark.faults
def test_a_killed_helper_costs_its_segment_alone(
    split_stack: Stack, whole: Job, first: WorkerProcess, second: WorkerProcess
) -> None:
    job_id = split_stack.submit(seed=10)
    wait_until(lambda: len(holders(split_stack, job_id)) == 2, 20, what="two workers on it")
    wait_until(lambda: {"segment-0", "segment-1"} <= set(marks(split_stack)), 10, what="both are drawing")
    owner = split_stack.store.jobs.get(job_id).worker
    (pid, lost), *_ = [(pid, number) for pid, number in holders(split_stack, job_id).items() if f"-{pid}-" not in owner]
    os.kill(int(pid), signal.SIGKILL)
    job = split_stack.finish(job_id, timeout_s=60)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1), job.error
    begun = marks(split_stack)
    assert begun.count(f"segment-{lost}") == 2
    assert len(begun) == 7  # analyze, join, four segments, one of them twice
    assert_same_media(split_stack, job, whole)


@pytest.mark.faults
def test_a_killed_owner_costs_no_finished_segment_and_no_analysis(
    split_stack: Stack, whole: Job, first: WorkerProcess, second: WorkerProcess
) -> None:
    wait_until(lambda: len(split_stack.store.workers.live()) == 2, 30, what="both workers are back")
    job_id = split_stack.submit(seed=10)
    wait_until(
        lambda: (state := split_stack.store.segments.state(job_id)) and len(state.done) >= 2, 30, what="two are done"
    )
    done = [f"segment-{number}" for number in split_stack.store.segments.state(job_id).done]
    os.kill(int(split_stack.store.jobs.get(job_id).worker.rsplit("-", 2)[1]), signal.SIGKILL)
    job = split_stack.tend(job_id, timeout_s=60)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2), job.error
    begun = marks(split_stack)
    assert begun.count("analyze") == 1
    assert [begun.count(name) for name in done] == [1] * len(done)
    assert_same_media(split_stack, job, whole)


@pytest.mark.faults_long
def test_four_workers_take_less_than_0_35_of_the_time_of_one(redis_url: str, tmp_path: Path) -> None:
    """Two minutes, 3,000 frames of 30 ms each. 13 segments over 4 workers: 0.28 at best."""
    stack = make_split_stack(redis_url, tmp_path, 120.0)
    with ExitStack() as workers:
        workers.enter_context(running(SEGMENTED, stack, tmp_path / "worker-0.log"))
        alone = stack.finish(stack.submit(seed=30), timeout_s=180)
        for number in (1, 2, 3):
            workers.enter_context(running(SEGMENTED, stack, tmp_path / f"worker-{number}.log"))
        together = stack.finish(stack.submit(seed=30), timeout_s=120)
    alone_s, together_s = ((job.finished_at - job.started_at).total_seconds() for job in (alone, together))
    print(f"one worker {alone_s:.1f} s, four {together_s:.1f} s: {together_s / alone_s:.3f}")
    assert "13 segments by 4 workers" in together.render.notes[0].sentence
    assert together_s < 0.35 * alone_s
    assert_same_media(stack, together, alone)
