"""The render worker as it is deployed: a Celery parent, a forked child that holds the engine, a real broker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from jobs.models import JobStatus
from tests.media import clips as media
from tests.services import wait_until
from tests.worker.conftest import Stack, WorkerProcess, running
from tests.worker.scripted_engine import Act

SCRIPTED = "tests.worker.scripted_app"


@pytest.fixture(scope="module")
def worker(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with running(SCRIPTED, stack, tmp_path_factory.mktemp("log") / "worker.log") as process:
        yield process


def test_a_job_is_rendered_published_and_leaves_no_temporary_file(stack: Stack, worker: WorkerProcess) -> None:
    job = stack.finish(stack.submit())
    assert job.status is JobStatus.SUCCEEDED, job.error
    assert job.attempt == 1
    assert job.result is not None
    assert job.result.key.endswith("result/attempt-1.mp4")
    path = stack.settings.data_dir / "taken.mp4"
    info = stack.objects.fetch(job.result.key, path)
    assert (info.size_bytes, info.content_type) == (job.result.size_bytes, "video/mp4")
    with av.open(str(path)) as result:
        assert result.streams.video[0].frames == job.result.frames == 25
        assert len(result.streams.audio) == 1
    assert job.render is not None
    assert job.render.engine == "preview"
    assert stack.attempt_folders() == []
    stages = [event.stage for event in stack.store.events(job.id, after=None) if event.event == "job.progress"]
    assert stages[0] == "fetch"
    assert stages[-1] == "publish"
