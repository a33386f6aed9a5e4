"""The disk of the local object store is full: a real one, a small file system that the API and a worker share."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from jobs.models import Job
from jobs.opening import open_store
from jobs.settings import Settings
from tests.faults.hostile_bases import speeches, videos
from tests.faults.processes import ServiceProcess
from tests.faults.service import FAST, RENDER_APP
from tests.services import free_port, own_database, wait_until

pytestmark = pytest.mark.faults

DISK_BYTES = 4 << 20


@dataclass(frozen=True)
class SmallService:
    """data: the data folder, as the service's processes see it."""

    client: httpx.Client
    settings: Settings
    data: Path

    def get(self, job_id: str) -> Job:
        return open_store(self.settings).jobs.get(job_id)

    def stored(self) -> list[str]:
        """Every file of the object store, finished or not, with its type."""
        root = self.data / "objects"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    def empty(self) -> None:
        for path in (self.data / "objects").rglob("*"):
            if path.is_file():
                path.unlink()
        self.give_room()

    def fill(self, leave_bytes: int = 0) -> None:
        """Fill the disk up to this many free bytes."""
        room = os.statvfs(self.data)
        with (self.data / "filler").open("wb") as filler:
            filler.write(bytes(room.f_bavail * room.f_frsize - leave_bytes))

    def give_room(self) -> None:
        (self.data / "filler").unlink(missing_ok=True)

    def put_upload(self, content: bytes) -> httpx.Response:
        link = self.client.post("/uploads").json()
        return self.client.put(link["url"], content=content)

    def submit(self, *, padding: int = 0, work_ms: int = 0) -> httpx.Response:
        """padding: bytes of a `free` box behind the video. work_ms: how long the render takes."""
        box = (padding + 8).to_bytes(4, "big") + b"free" + bytes(padding)
        files = {"video": ("a.mp4", videos()["mp4"] + box), "audio": ("a.wav", speeches()["wav"])}
        return self.client.post("/jobs", files=files, data={"evaluate": "[]", "seed": str(work_ms)})


@pytest.fixture(scope="module")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Process id of a holder of the small file system, and its mount point in that namespace."""
    folder = tmp_path_factory.mktemp("full") / "data"
    folder.mkdir()
    mount = f'mount -t tmpfs -o size={DISK_BYTES} none "$0" && echo mounted && exec sleep 600'
    command = ("unshare", "--mount", "--map-root-user", "sh", "-c", mount, str(folder))
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != "mounted\n":
            pytest.skip("this machine lets nobody mount a file system of his own, so there is no disk to fill")
        yield holder.pid, folder
    finally:
        holder.kill()
        holder.wait()


@pytest.fixture(scope="module")
def small(
    namespace: tuple[int, Path], redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SmallService]:
    holder, folder = namespace
    logs = tmp_path_factory.mktemp("full-service")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    named = {
        "REDIS_URL": own_database(redis_url),
        "DATA_DIR": str(folder),
        "WORK_DIR": str(logs),
        "PUBLIC_URL": url,
        "MAX_ATTEMPTS": "1",
        "MIN_FREE_BYTES": "0",  # the floor would refuse first: this is about what happens below it
    }
    table = FAST | named
    environment = {f"RETALKING_{name}": value for name, value in table.items()}
    enter = ("nsenter", "--target", str(holder), "--user", "--mount", "--preserve-credentials")
    api = ["api.server", "--port", str(port)]
    worker = ["celery", "-A", RENDER_APP, "worker", "-n", f"render@{port}"]
    processes = [
        ServiceProcess(arguments, environment, logs / f"{number}.log", (*enter, "--wd=."))
        for number, arguments in enumerate((api, worker, ["worker.webhooks"]))
    ]
    settings = Settings(_env_file=None, **{name.lower(): value for name, value in table.items()})
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            wait_until(lambda: _is_ready(client, processes), 90, 0.2, f"the service is ready; logs in {logs}")
            yield SmallService(client, settings, Path(f"/proc/{holder}/root{folder}"))
    finally:
        for process in processes:
            process.signal(signal.SIGTERM) if process.is_alive else None
        for process in processes:
            process.stop()


def _is_ready(client: httpx.Client, processes: list[ServiceProcess]) -> bool:
    for process in processes:
        assert process.is_alive, process.log.read_text()[-3000:]
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(autouse=True)
def room(small: SmallService) -> Iterator[None]:
    small.empty()
    yield
    small.empty()


def _check_refused(small: SmallService, answer: httpx.Response) -> None:
    """The error names the cause, and no file stays."""
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full"), answer.text
    assert str(small.data) not in answer.text
    wait_until(lambda: small.stored() == [], 10, 0.1, f"nothing stored: {small.stored()}")


def _check_well(small: SmallService) -> None:
    assert small.put_upload(videos()["mp4"]).status_code == 200
    job_id = small.submit().json()["id"]
    wait_until(lambda: small.get(job_id).status.is_over, 40, 0.05, job_id)
    assert small.get(job_id).status.value == "succeeded"


def test_an_upload_that_does_not_fit_leaves_nothing(small: SmallService) -> None:
    _check_refused(small, small.put_upload(videos()["mp4"] + bytes(2 * DISK_BYTES)))
    _check_well(small)


def test_a_submission_that_does_not_fit_leaves_nothing(small: SmallService) -> None:
    _check_refused(small, small.submit(padding=2 * DISK_BYTES))
    _check_well(small)


@pytest.mark.parametrize("more_bytes", [0, 4096, 8192])
def test_the_file_fits_and_what_belongs_to_it_does_not(small: SmallService, more_bytes: int) -> None:
    """The disk is full within the last buffer, or right after the file, before its content type is written."""
    content = videos()["mp4"]
    content += bytes(-len(content) % 4096)
    small.fill(leave_bytes=len(content) - 4096 + more_bytes)
    answer = small.put_upload(content)
    if answer.status_code == 200:
        assert more_bytes == 8192
        return
    _check_refused(small, answer)
    small.give_room()
    _check_well(small)


def test_everything_else_goes_on(small: SmallService) -> None:
    job_id = small.submit().json()["id"]
    wait_until(lambda: small.get(job_id).status.is_over, 40, 0.05, job_id)
    small.fill()
    answer = small.client.get("/readyz")
    assert (answer.status_code, answer.json()["parts"]["objects"]) == (200, "full")
    assert small.client.get(f"/jobs/{job_id}/result", follow_redirects=True).status_code == 200
    assert small.client.delete(f"/jobs/{job_id}").status_code == 204


def _fill_while_rendered(small: SmallService) -> str:
    job_id = small.submit(work_ms=1500).json()["id"]
    wait_until(lambda: small.get(job_id).stage == "synthesize", 40, 0.01, job_id)
    small.fill()
    return job_id


def test_a_result_waits_until_there_is_room(small: SmallService) -> None:
    job_id = _fill_while_rendered(small)
    wait_until(lambda: small.get(job_id).stage == "publish", 40, 0.01, job_id)
    small.give_room()
    wait_until(lambda: small.get(job_id).status.is_over, 60, 0.05, job_id)
    job = small.get(job_id)
    assert (job.status.value, job.attempt) == ("succeeded", 1)
    assert not [name for name in small.stored() if name.startswith("new/")]


def test_a_result_without_room_is_a_failure_of_the_store_by_name(small: SmallService) -> None:
    job_id = _fill_while_rendered(small)
    inputs = [name for name in small.stored() if not name.startswith("new/")]
    wait_until(lambda: small.get(job_id).status.is_over, 90, 0.05, job_id)
    error = small.get(job_id).error
    assert error is not None
    assert (error.code, error.retryable) == ("storage_full", True)
    assert small.stored() == inputs
    small.give_room()
    _check_well(small)
