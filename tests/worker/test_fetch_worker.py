"""Inputs by address in the processes as deployed: a webhook worker that fetches, a render worker of one slot."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs.models import InputRef, JobRequest, JobSpec, JobStatus
from jobs.names import input_key, new_job_id
from jobs.store import Origin
from tests.services import wait_until
from tests.worker.conftest import Clips, Stack, WorkerProcess, make_stack, running
from tests.worker.receiver import Receiver, Reply, receiving

PATIENT, OTHER = "aa" * 8, "bb" * 8


@pytest.fixture(scope="module")
def stack(redis_url: str, tmp_path_factory: pytest.TempPathFactory, clips: Clips) -> Stack:
    folder = tmp_path_factory.mktemp("stack")
    return make_stack(redis_url, folder, clips, RETALKING_FETCH_MIN_BYTES_PER_S="1", RETALKING_FETCH_SLOTS="8")


@pytest.fixture(scope="module")
def render(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    log = tmp_path_factory.mktemp("render") / "log"
    with running("tests.worker.scripted_app", stack, log) as worker:
        yield worker


@contextmanager
def fetching(stack: Stack, log: Path) -> Iterator[WorkerProcess]:
    worker = WorkerProcess("worker.webhooks", stack, log)
    try:
        wait_until(lambda: worker.says("janitor started"), timeout=30)
        yield worker
    finally:
        worker.stop()


@contextmanager
def hosting(stack: Stack, go_on: Callable[[], object] = lambda: None) -> Iterator[Receiver]:
    """A host that serves the clip under every address, after go_on()."""
    film = stack.clips.video.read_bytes()
    chunks = tuple(film[at : at + 256] for at in range(0, len(film), 256))
    with receiving() as host:
        host.replies = [Reply(chunks=chunks, before_chunk=go_on)]
        yield host


def submit(stack: Stack, host: Receiver, owner: str, **asked: Any) -> str:
    """A job with a video by address and a speech that was sent, as the API makes it."""
    job_id = new_job_id()
    video = InputRef(kind="url", url=f"{host.url}/{job_id}")
    audio = InputRef(kind="object", key=input_key(job_id, "audio"))
    stack.objects.put_file(str(audio.key), stack.clips.audio, "audio/wav")
    spec = JobSpec(video=video, audio=audio, request=JobRequest(evaluate=[], **asked))
    created = stack.store.jobs.create(job_id, spec, max_attempts=3, origin=Origin(owner, 100))
    if not getattr(created.job, "awaits_inputs", False):
        stack.send(job_id)
    return job_id


class Drip:
    """A byte stream that stays above the minimum rate, and goes on for as long as it is not opened."""

    def __init__(self) -> None:
        self._is_open = threading.Event()

    def wait(self) -> None:
        self._is_open.wait(0.1 if self._is_open.is_set() else 2.0)

    def open(self) -> None:
        self._is_open.set()


def test_a_render_slot_is_free_while_links_drip(stack: Stack, render: WorkerProcess, tmp_path: Path) -> None:
    drip = Drip()
    with fetching(stack, tmp_path / "log"), hosting(stack, drip.wait) as slow, hosting(stack) as quick:
        dripping = [submit(stack, slow, PATIENT) for _ in range(12)]
        wait_until(lambda: any(stack.store.jobs.get(each).stage == "fetch" for each in dripping), 20)
        with_files, by_link = stack.submit(), submit(stack, quick, OTHER)
        for job_id in (with_files, by_link):
            assert stack.finish(job_id, 30).status is JobStatus.SUCCEEDED
        assert all(stack.store.jobs.get(each).status is JobStatus.QUEUED for each in dripping)
        assert len(slow.calls) <= 8
        for job_id in dripping:
            stack.store.jobs.request_cancel(job_id, retention_s=60)
        wait_until(lambda: stack.store.fetches.count() == 0, 30)
        assert [stack.files_of(each) for each in dripping] == [["input/audio"]] * len(dripping)
        drip.open()


def test_a_job_by_address_ends_well_after_its_fetcher_was_killed(
    stack: Stack, render: WorkerProcess, tmp_path: Path
) -> None:
    drip = Drip()
    with hosting(stack, drip.wait) as host:
        with fetching(stack, tmp_path / "first") as first:
            job_id = submit(stack, host, OTHER)
            wait_until(lambda: stack.store.jobs.get(job_id).stage == "fetch" and host.calls, 20)
            os.kill(first.pid, signal.SIGKILL)
            first.wait()
        drip.open()
        with fetching(stack, tmp_path / "second"):
            job = stack.finish(job_id, 40)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1), job.error
    inputs = [name for name in stack.files_of(job_id) if name.startswith("input/")]
    assert sorted(inputs) == ["input/audio", "input/video-2"]
    told = [event.event for event in stack.store.jobs.events(job_id, after=None)]
    assert [told.count(event) for event in ("job.queued", "job.started", "job.succeeded")] == [1, 1, 1]


def test_a_fetcher_that_is_told_to_stop_hands_its_jobs_on(stack: Stack, render: WorkerProcess, tmp_path: Path) -> None:
    drip = Drip()
    with hosting(stack, drip.wait) as host:
        with fetching(stack, tmp_path / "first") as first:
            job_id = submit(stack, host, OTHER)
            wait_until(lambda: stack.store.jobs.get(job_id).stage == "fetch" and host.calls, 20)
            first.terminate()
            assert first.wait() == 0
        assert stack.store.jobs.get(job_id).stage is None
        assert stack.files_of(job_id) == ["input/audio"]
        drip.open()
        with fetching(stack, tmp_path / "second"):
            assert stack.finish(job_id, 40).status is JobStatus.SUCCEEDED


def test_a_link_that_fails_ends_its_job_by_name(stack: Stack, tmp_path: Path) -> None:
    with fetching(stack, tmp_path / "log") as worker, receiving() as host:
        host.replies = [Reply(404)]
        job = stack.finish(submit(stack, host, OTHER), 30)
        assert (job.status, job.error.code, job.attempt) == (JobStatus.FAILED, "input_unreachable", 0)
        assert host.url not in worker.log.read_text()
