"""A service without its API: Redis, object store, and worker processes as deployed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from jobs.messages import make_celery, send_render
from jobs.models import InputRef, Job, JobRequest, JobSpec
from jobs.names import input_key, job_prefix, new_job_id
from jobs.objects import ObjectStore
from jobs.opening import open_objects, open_store
from jobs.settings import Settings
from jobs.store import JobStore
from tests.media.clips import make_video, make_wav
from tests.services import own_database, wait_until

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Clips:
    video: Path
    audio: Path


@dataclass(frozen=True)
class Stack:
    """What the processes of one service share. environment: what makes their settings."""

    environment: dict[str, str]
    settings: Settings
    store: JobStore
    objects: ObjectStore
    celery: Celery
    clips: Clips

    def create(
        self, *, video: Path | None = None, audio: Path | None = None, max_attempts: int = 3, **asked: Any
    ) -> str:
        """A stored job whose message is not sent."""
        job_id = new_job_id()
        refs = {}
        for part, path in (("video", video or self.clips.video), ("audio", audio or self.clips.audio)):
            self.objects.put_file(input_key(job_id, part), path, "application/octet-stream")
            refs[part] = InputRef(kind="object", key=input_key(job_id, part), filename=path.name)
        request = JobRequest(**({"evaluate": []} | asked))
        self.store.jobs.create(job_id, JobSpec(**refs, request=request), max_attempts=max_attempts)
        return job_id

    def send(self, job_id: str) -> None:
        send_render(self.celery, self.store.jobs.get(job_id))
        self.store.jobs.mark_message_sent(job_id)

    def submit(self, **asked: Any) -> str:
        job_id = self.create(**asked)
        self.send(job_id)
        return job_id

    def finish(self, job_id: str, timeout_s: float = 30.0) -> Job:
        """The job once it is over. The janitor's rounds that a test needs are played by `tend`."""
        wait_until(lambda: self.store.jobs.get(job_id).status.is_over, timeout_s, what=f"{self.store.jobs.get(job_id)}")
        return self.store.jobs.get(job_id)

    def wait_for(self, job_id: str, condition: Callable[[Job], object], timeout_s: float = 20.0) -> Job:
        wait_until(lambda: condition(self.store.jobs.get(job_id)), timeout_s, what=str(self.store.jobs.get(job_id)))
        return self.store.jobs.get(job_id)

    def tend(self, job_id: str, timeout_s: float = 30.0) -> Job:
        """Requeue lost leases, and send, until the job is over."""

        def is_over() -> bool:
            if self.store.jobs.get(job_id).status.is_over:
                return True
            for lost in self.store.jobs.requeue_lost():
                if not lost.status.is_over:
                    self.send(lost.id)
            for unsent in self.store.jobs.unsent(0.0):
                self.send(unsent.id)
            return False

        wait_until(is_over, timeout_s, 0.05, f"{job_id} is over")
        return self.store.jobs.get(job_id)

    def files_of(self, job_id: str) -> list[str]:
        return [key.removeprefix(job_prefix(job_id)) for key in self.objects.list_keys(job_prefix(job_id))]

    def attempt_folders(self) -> list[Path]:
        return list(Path(str(self.settings.work_dir)).glob("retalking-attempt-*"))

    def check_no_folder_stays(self) -> None:
        """An attempt removes its folder after it recorded the end of its job."""
        wait_until(lambda: not self.attempt_folders(), 10, what="no temporary folder is left")

    @property
    def marks(self) -> Path:
        return self.settings.data_dir / "marks"


class WorkerProcess:
    """`celery -A app worker` as a process of its own, with its log; the webhook worker is a module that is run."""

    def __init__(self, app: str, stack: Stack, log: Path, **changes: str) -> None:
        self.log = log
        self._sink = log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", *([app] if app == "worker.webhooks" else ["celery", "-A", app, "worker"])],
            cwd=ROOT,
            env=os.environ | stack.environment | changes,
            stdout=self._sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def child(self) -> int:
        """The pool process."""
        told = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(told[0])

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The journal; what Celery prints before logging starts is left out."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def says(self, message: str) -> bool:
        return any(message in line["message"] for line in self.lines)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = 30.0) -> int:
        return self._process.wait(timeout_s)

    def stop(self) -> None:
        if self.is_alive():
            self.terminate()
            try:
                self.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self.wait()
        self._sink.close()


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    folder = tmp_path_factory.mktemp("clips")
    return Clips(make_video(folder / "face.mp4", frames=25), make_wav(folder / "speech.wav"))


def make_stack(redis_url: str, folder: Path, clips: Clips, **settings: str) -> Stack:
    url = own_database(redis_url)
    environment = {
        "RETALKING_REDIS_URL": url,
        "RETALKING_DATA_DIR": str(folder / "data"),
        "RETALKING_WORK_DIR": str(folder / "work"),
        "RETALKING_LEASE_S": "2",
        "RETALKING_STALL_S": "60",
        "RETALKING_SHUTDOWN_GRACE_S": "1",
        "RETALKING_WORKER_TTL_S": "3",
        "RETALKING_JANITOR_INTERVAL_S": "0.2",
        "RETALKING_WEBHOOK_RETRIES_S": "0.2,0.4,0.8,1.6,3.2",
        "RETALKING_WEBHOOK_BREAKER_S": "0.5",
        "RETALKING_ALLOW_PRIVATE_HOSTS": "127.0.0.1",
    } | settings
    names = {name.removeprefix("RETALKING_").lower(): value for name, value in environment.items()}
    told = Settings(_env_file=None, **names)
    return Stack(environment, told, open_store(told), open_objects(told), make_celery(told), clips)


@pytest.fixture(scope="module")
def stack(redis_url: str, tmp_path_factory: pytest.TempPathFactory, clips: Clips) -> Stack:
    """A service of its own for each test module."""
    return make_stack(redis_url, tmp_path_factory.mktemp("stack"), clips)


@contextmanager
def running(app: str, stack: Stack, log: Path, **changes: str) -> Iterator[WorkerProcess]:
    """A render worker, ready to take jobs."""
    before = {worker.id for worker in stack.store.workers.live()}
    process = WorkerProcess(app, stack, log, **changes)
    try:
        wait_until(
            lambda: {worker.id for worker in stack.store.workers.live()} - before or not process.is_alive(),
            60,
            what="a ready render worker",
        )
        assert process.is_alive(), log.read_text()
        yield process
    finally:
        process.stop()
