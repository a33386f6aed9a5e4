"""The render worker as it is deployed: a Celery parent, a forked child that holds the engine, a real broker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
from celery.concurrency import get_implementation

from jobs.messages import make_celery
from jobs.models import JobStatus
from jobs.opening import connect_redis
from tests.faults.hostile_bases import speeches, videos
from tests.media import clips as media
from tests.services import wait_until
from tests.worker import scripted_app
from tests.worker.conftest import Clips, Stack, WorkerProcess, make_stack, running
from tests.worker.scripted_engine import Act, ScriptedEngine
from worker.engines import EngineSet
from worker.render_app import RenderProcess
from worker.supervision import DEATH_CHECK_S, PollStamp, ShutdownNotice

SCRIPTED = "tests.worker.scripted_app"


@pytest.fixture(scope="module")
def worker(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with running(SCRIPTED, stack, tmp_path_factory.mktemp("log") / "worker.log") as process:
        yield process


def test_a_process_is_ready_before_the_preview_has_its_face_models(stack: Stack) -> None:
    """Their memory is no growth of the process all the same."""
    seen: list[list[str]] = []

    class SlowToWarmUp(ScriptedEngine):
        def warm_up(self) -> None:
            seen.append([card.id for card in stack.store.workers.live()])
            assert process.context is None, "no job is taken yet, and the memory is measured later"
            super().warm_up()

    engines = EngineSet({"preview": SlowToWarmUp(stack.marks)})
    process = RenderProcess(stack.settings, lambda _: engines, ShutdownNotice(), PollStamp())
    process.open(make_celery(stack.settings))
    process.close()
    assert [process.worker_id(os.getpid()) in ready for ready in seen] == [True]
    assert process.context is not None


def test_a_job_is_rendered_published_and_leaves_no_temporary_file(stack: Stack, worker: WorkerProcess) -> None:
    job = stack.finish(stack.submit())
    assert job.status is JobStatus.SUCCEEDED, job.error
    assert job.attempt == 1
    assert job.result is not None
    assert job.result.key.endswith("result/lease-1.mp4")
    path = stack.settings.data_dir / "taken.mp4"
    info = stack.objects.fetch(job.result.key, path)
    assert (info.size_bytes, info.content_type) == (job.result.size_bytes, "video/mp4")
    with av.open(str(path)) as result:
        assert result.streams.video[0].frames == job.result.frames == 25
        assert len(result.streams.audio) == 1
    assert job.render is not None
    assert job.render.engine == "preview"
    stack.check_no_folder_stays()
    stages = [event.stage for event in stack.store.jobs.events(job.id, after=None) if event.event == "job.progress"]
    assert stages[0] == "fetch"
    assert stages[-1] == "publish"


def test_the_worker_reports_its_engines_and_its_job(stack: Stack, worker: WorkerProcess) -> None:
    (card,) = stack.store.workers.live()
    assert [engine.name for engine in card.engines] == ["preview"]
    assert card.versions["celery"].startswith("5.7")
    assert card.busy_with is None
    job_id = stack.submit(seed=Act.SLOW)
    wait_until(lambda: stack.store.workers.live()[0].busy_with == job_id)
    stack.store.jobs.request_cancel(job_id, retention_s=60)
    stack.finish(job_id)
    wait_until(lambda: stack.store.workers.live()[0].busy_with is None)


def test_a_parent_that_does_not_poll_is_reported(stack: Stack, worker: WorkerProcess) -> None:
    """Its child lives and reports all the while."""
    wait_until(lambda: stack.store.workers.live()[0].polled_at, what="the first question")
    asked = stack.store.workers.live()[0].polled_at
    wait_until(lambda: stack.store.workers.live()[0].polled_at > asked, 10, what="the next one is reported")
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        limit = timedelta(seconds=stack.settings.worker_ttl_s)
        wait_until(
            lambda: datetime.now(UTC) - stack.store.workers.live()[0].polled_at > limit, 15, what="silence is seen"
        )
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    wait_until(lambda: datetime.now(UTC) - stack.store.workers.live()[0].polled_at < limit, 15, what="it asks again")


def test_a_cancel_stops_the_render_within_a_batch(stack: Stack, worker: WorkerProcess) -> None:
    job_id = stack.submit(seed=Act.SLOW)
    stack.wait_for(job_id, lambda job: job.stage == "synthesize")
    folder = Path((stack.marks / "folder").read_text())
    assert folder in stack.attempt_folders()
    (stack.marks / "left").unlink(missing_ok=True)
    asked = stack.store.jobs.request_cancel(job_id, retention_s=60)
    assert asked.cancel_requested
    # Told at most every half second, then one batch of 50 ms; the rest is room for a loaded machine.
    wait_until((stack.marks / "left").exists, timeout=2.0)
    assert stack.finish(job_id).status is JobStatus.CANCELED
    assert not folder.exists()
    assert stack.files_of(job_id) == ["input/audio", "input/video"]


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (Act.BREAK, "internal_error"),
        (Act.FAULT, "engine_fault"),
        (Act.NO_FACE, "face_not_found"),
        (Act.DISK_FULL, "disk_full"),
    ],
)
def test_an_engine_error_has_a_code_and_reveals_no_secret(
    stack: Stack, worker: WorkerProcess, act: Act, code: str
) -> None:
    child = worker.child
    job = stack.finish(stack.submit(seed=act))
    assert (job.status, job.attempt) == (JobStatus.FAILED, 1)
    assert job.error is not None
    assert job.error.code == code
    assert "secret" not in job.error.message
    assert "/" not in job.error.message
    stack.check_no_folder_stays()
    assert worker.child == child


def test_a_process_that_ran_out_of_memory_is_replaced_and_costs_no_other_job(
    stack: Stack, worker: WorkerProcess
) -> None:
    """The other jobs wait in the queue, and run, while one process ends and the next one starts."""
    child = worker.child
    glutton = stack.submit(seed=Act.NO_MEMORY)
    others = [stack.submit() for _ in range(3)]
    job = stack.finish(glutton)
    others += [stack.submit() for _ in range(3)]
    assert job.error is not None
    assert (job.status, job.attempt, job.error.code) == (JobStatus.FAILED, 1, "out_of_memory")
    for other in map(stack.finish, others):
        assert (other.status, other.attempt) == (JobStatus.SUCCEEDED, 1), other.error
    assert worker.child != child
    assert worker.says("process is replaced")
    stack.check_no_folder_stays()


def test_a_video_that_takes_all_memory_does_not_affect_later_jobs(redis_url: str, tmp_path: Path) -> None:
    """The real engine at a limit of 640 MiB: a clean job takes less than that, this video more than 1,400, by a margin
    that depends on the interpreter. A worker set to `preview` imports no torch, which takes 650 MiB. What runs out is a
    decoder or an encoder, in code that is not Python's."""
    clips = Clips(tmp_path / "face.mp4", tmp_path / "speech.wav")
    clips.video.write_bytes(videos()["mp4"])
    clips.audio.write_bytes(speeches()["wav"])
    stack = make_stack(
        redis_url, tmp_path, clips, RETALKING_WORKER_MEMORY_BYTES=str(640 << 20), RETALKING_ENGINE="preview"
    )
    hostile = media.make_large_video(tmp_path / "hostile.mp4")
    assert hostile.stat().st_size < 200_000
    with running("worker.gpu", stack, tmp_path / "worker.log") as process:
        child = process.child
        job = stack.submit(video=hostile)
        after = [stack.submit() for _ in range(6)]
        error = stack.finish(job, 120).error
        assert error is not None
        assert error.code == "out_of_memory", (tmp_path / "worker.log").read_text()[-3000:]
        for each in after:
            clean = stack.finish(each, 60)
            assert (clean.status, clean.attempt) == (JobStatus.SUCCEEDED, 1), clean.error
        assert process.child != child


def test_an_unexpected_exception_is_in_the_log_as_one_line_with_the_job(stack: Stack, worker: WorkerProcess) -> None:
    job = stack.finish(stack.submit(seed=Act.BREAK))
    (line,) = [line for line in worker.lines if line.get("job") == job.id and "traceback" in line]
    assert line["code"] == "internal_error"
    assert "RuntimeError: secret" in line["traceback"]


BAD_INPUTS = {
    "video/empty": (media.make_empty, "file_empty"),
    "video/text": (media.make_text, "container_unsupported"),
    "video/sound_only": (media.make_sound_only_mp4, "video_stream_missing"),
    "video/huge_picture": (media.make_huge_png_header, "picture_too_large"),
    "video/truncated": (media.make_truncated_mp4, "media_unreadable"),
    "audio/empty": (media.make_empty, "file_empty"),
    "audio/silent_video": (media.make_silent_video, "audio_stream_missing"),
    "audio/no_samples": (media.make_empty_wav, "audio_empty"),
    "audio/three_hours": (media.make_long_wav, "media_too_long"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_media_has_a_code_and_leaves_the_worker_alive(
    stack: Stack, worker: WorkerProcess, tmp_path: Path, case: str
) -> None:
    part = case.partition("/")[0]
    make, code = BAD_INPUTS[case]
    child = worker.child
    job = stack.finish(stack.submit(**{part: make(tmp_path / "input.mp4")}))
    assert job.error is not None, job
    assert (job.status, job.error.code) == (JobStatus.FAILED, code), job.error
    assert len(job.error.message) > 20
    assert worker.child == child
    stack.check_no_folder_stays()


def test_a_named_engine_that_is_not_loaded_is_refused(stack: Stack, worker: WorkerProcess) -> None:
    job = stack.finish(stack.submit(engine="videoretalking"))
    assert job.error is not None
    assert job.error.code == "engine_unavailable"
    assert "preview" in job.error.message


def test_a_killed_child_costs_an_attempt_not_the_job(stack: Stack, worker: WorkerProcess) -> None:
    """kill -9 in mid-render: the job is given out again, a fresh child finishes it."""
    job_id = stack.submit(seed=Act.BRIEF)
    stack.wait_for(job_id, lambda job: job.stage == "synthesize")
    child = worker.child
    os.kill(child, signal.SIGKILL)
    job = stack.tend(job_id)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2), job.error
    assert worker.child != child
    stack.check_no_folder_stays()
    assert worker.says("temporary folders of dead attempts removed")


def test_the_parent_of_a_killed_child_ends_its_lease(redis_url: str, tmp_path: Path, clips: Clips) -> None:
    """A third of the lease is a generous deadline: nobody renews it, and nobody waits for its end."""
    stack = make_stack(redis_url, tmp_path, clips, RETALKING_LEASE_S="30", RETALKING_WORKER_TTL_S="30")
    with running(SCRIPTED, stack, tmp_path / "worker.log") as process:
        job_id = stack.submit(seed=Act.BRIEF)
        dead = stack.wait_for(job_id, lambda job: job.stage == "synthesize").worker
        os.kill(process.child, signal.SIGKILL)
        wait_until(
            lambda: [job.id for job in stack.store.jobs.requeue_lost()] == [job_id], 10, what="the lease is over"
        )
        assert dead not in [card.id for card in stack.store.workers.live()]
        job = stack.tend(job_id)
        assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2), job.error


def test_a_worker_looks_for_dead_children_by_a_clock_of_its_own() -> None:
    """A child closes its pipes before it can be waited for, so what the parent then finds is luck, and Celery's next
    look comes after 5 s."""
    pool = get_implementation(scripted_app.app.conf.worker_pool)
    rounds = pool.Pool.timers.fget(SimpleNamespace(maintain_pool="look"))
    assert rounds == {"look": DEATH_CHECK_S}
    assert DEATH_CHECK_S < 1


def test_a_job_that_kills_its_worker_every_time_ends_and_the_next_one_runs(stack: Stack, worker: WorkerProcess) -> None:
    job = stack.tend(stack.submit(seed=Act.CRASH, max_attempts=2), timeout_s=60)
    assert job.error is not None
    assert (job.status, job.error.code, job.attempt) == (JobStatus.FAILED, "worker_lost", 2)
    assert stack.finish(stack.submit()).status is JobStatus.SUCCEEDED


def test_a_second_message_for_a_running_or_ended_job_does_nothing(stack: Stack, worker: WorkerProcess) -> None:
    job_id = stack.submit()
    job = stack.finish(job_id)
    stack.celery.send_task("retalking.render_job", args=[job_id], queue="retalking.render")
    wait_until(lambda: any(line.get("job") == job_id and "nothing to do" in line["message"] for line in worker.lines))
    assert stack.store.jobs.get(job_id) == job


def test_a_message_for_a_deleted_job_does_nothing(stack: Stack, worker: WorkerProcess) -> None:
    gone = "job_" + "0" * 32
    stack.celery.send_task("retalking.render_job", args=[gone], queue="retalking.render")
    wait_until(lambda: any(line.get("job") == gone for line in worker.lines))
    assert stack.finish(stack.submit()).status is JobStatus.SUCCEEDED


def test_lost_connections_to_redis_cost_nothing(stack: Stack, worker: WorkerProcess) -> None:
    """Every connection is cut in mid-render: the job goes on, and the parent consumes again."""
    job_id = stack.submit(seed=Act.BRIEF)
    stack.wait_for(job_id, lambda job: job.stage == "synthesize")
    with connect_redis(stack.environment["RETALKING_REDIS_URL"]) as client:
        for kind in ("normal", "pubsub"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    job = stack.finish(job_id)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1), job.error
    assert stack.finish(stack.submit(), timeout_s=40).status is JobStatus.SUCCEEDED


def test_two_slots_work_on_two_jobs_at_a_time(redis_url: str, tmp_path: Path, clips: Clips) -> None:
    stack = make_stack(redis_url, tmp_path, clips, RETALKING_GPU_SLOTS="2")
    with running(SCRIPTED, stack, tmp_path / "worker.log") as process:
        wait_until(lambda: len(stack.store.workers.live()) == 2, what="both slots are ready")
        slow = [stack.submit(seed=Act.SLOW) for _ in range(2)]
        for job_id in slow:
            stack.wait_for(job_id, lambda job: job.stage == "synthesize")
        assert {card.busy_with for card in stack.store.workers.live()} == set(slow)
        for job_id in slow:
            stack.store.jobs.request_cancel(job_id, retention_s=60)
        assert [stack.finish(job_id).status for job_id in slow] == [JobStatus.CANCELED] * 2
        # A killed slot costs its own job one attempt, and the other slot nothing.
        steady, crashing = stack.submit(seed=Act.BRIEF), stack.submit(seed=Act.CRASH_ONCE)
        assert stack.tend(crashing).attempt == 2
        assert (stack.finish(steady).status, stack.finish(steady).attempt) == (JobStatus.SUCCEEDED, 1)
        assert process.is_alive()
