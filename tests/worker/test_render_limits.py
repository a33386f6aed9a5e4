"""Limits of a render that does not end by itself, and shutdown of a worker with a running job."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.models import JobStatus
from tests.services import wait_until
from tests.worker.conftest import Clips, Stack, WorkerProcess, make_stack, running
from tests.worker.scripted_engine import Act

SCRIPTED = "tests.worker.scripted_app"


@pytest.fixture(scope="module")
def stack(redis_url: str, tmp_path_factory: pytest.TempPathFactory, clips: Clips) -> Stack:
    folder = tmp_path_factory.mktemp("limits")
    return make_stack(redis_url, folder, clips, RETALKING_STALL_S="1.5", RETALKING_RENDER_LIMIT_S="4")


@pytest.fixture
def worker(stack: Stack, tmp_path: Path) -> Iterator[WorkerProcess]:
    with running(SCRIPTED, stack, tmp_path / "worker.log") as process:
        yield process


def test_the_time_limit_fails_the_job_and_a_hung_process_does_not_end_the_worker(stack: Stack, tmp_path: Path) -> None:
    with running("tests.worker.impatient_app", stack, tmp_path / "worker.log") as worker:
        child = worker.child
        assert _failure(stack, Act.SLOW) == "render_timeout"
        assert worker.child == child

        # No sign of life: the lease is let go after stall_s, and the process ends itself a lease later.
        assert _failure(stack, Act.HANG) == "worker_lost"
        wait_until(lambda: worker.says("render hangs"), timeout=15)
        assert stack.finish(stack.submit()).status is JobStatus.SUCCEEDED
        assert worker.child != child

        # It swallows the soft limit and goes on telling progress: the parent ends the process at the hard one.
        child = worker.child
        assert _failure(stack, Act.STUBBORN) == "render_timeout"
        assert stack.finish(stack.submit()).status is JobStatus.SUCCEEDED
        assert worker.child != child
        stack.check_no_folder_stays()


def _failure(stack: Stack, act: Act) -> str:
    job = stack.tend(stack.submit(seed=act, max_attempts=1))
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    return job.error.code


def test_sigterm_lets_a_short_job_finish(stack: Stack, worker: WorkerProcess) -> None:
    job_id = stack.submit(seed=Act.COPY)
    stack.wait_for(job_id, lambda job: job.status is not JobStatus.QUEUED)
    worker.terminate()
    assert worker.wait() == 0
    assert stack.store.jobs.get(job_id).status is JobStatus.SUCCEEDED
    assert stack.store.workers.live() == []


@pytest.mark.parametrize("to_the_whole_group", [False, True])
def test_sigterm_releases_a_long_job_uncounted(stack: Stack, worker: WorkerProcess, to_the_whole_group: bool) -> None:
    """docker stops the first process only; systemd signals every process of the service."""
    job_id = stack.submit(seed=Act.SLOW)
    stack.wait_for(job_id, lambda job: job.stage == "synthesize")
    began = time.monotonic()
    if to_the_whole_group:
        os.killpg(worker.pid, signal.SIGTERM)
    else:
        worker.terminate()
    worker.wait()
    assert time.monotonic() - began < 8
    job = stack.store.jobs.get(job_id)
    assert (job.status, job.attempt) == (JobStatus.QUEUED, 0)
    stack.check_no_folder_stays()
    assert stack.store.workers.live() == []
    stack.store.jobs.request_cancel(job_id, retention_s=60)


def test_a_cold_shutdown_releases_the_job_too(stack: Stack, worker: WorkerProcess) -> None:
    """SIGQUIT, as a second Ctrl-C sends it: no grace, but no lost attempt and no left-over file either."""
    job_id = stack.submit(seed=Act.SLOW)
    stack.wait_for(job_id, lambda job: job.stage == "synthesize")
    os.kill(worker.pid, signal.SIGQUIT)
    worker.wait()
    job = stack.store.jobs.get(job_id)
    assert (job.status, job.attempt) == (JobStatus.QUEUED, 0)
    stack.check_no_folder_stays()
    stack.store.jobs.request_cancel(job_id, retention_s=60)


def test_a_worker_whose_engines_do_not_load_takes_no_job_and_exits(stack: Stack, tmp_path: Path) -> None:
    job_id = stack.submit()
    worker = WorkerProcess("tests.worker.broken_app", stack, tmp_path / "worker.log")
    try:
        worker.wait(40)
        assert worker.says("engines not loaded")
        assert stack.store.jobs.get(job_id).status is JobStatus.QUEUED
    finally:
        worker.stop()
    stack.store.jobs.request_cancel(job_id, retention_s=60)
