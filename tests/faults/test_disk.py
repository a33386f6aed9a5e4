"""The disk of the work folder is full: a real one, a small file system of the worker's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.hostile_bases import speeches, videos
from tests.faults.service import Service
from tests.services import S3Endpoint, wait_until

pytestmark = pytest.mark.faults

DISK_KB = 2048


@pytest.fixture(scope="module")
def small(s3: S3Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One worker with the preview engine, whose work folder is a file system of 2 MB that only it sees."""
    folder = tmp_path_factory.mktemp("small") / "service"
    mount = f'mount -t tmpfs -o size={DISK_KB}k none "$0" && exec "$@"'
    prefix = ("unshare", "--mount", "--map-root-user", "sh", "-c", mount, str(folder / "work"))
    (folder / "work").mkdir(parents=True)
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a file system of his own, so there is no disk to fill")
    service = Service(folder, s3.with_bucket("small"), workers=1, render_app="worker.gpu", worker_prefix=prefix)
    try:
        yield service.start()
    finally:
        service.stop()


def _inside(service: Service) -> Path:
    """The work folder as the worker sees it."""
    return Path(f"/proc/{service.workers[0].pid}/root{service.work_dir}")


def _submit(service: Service, padding: int = 0) -> str:
    """A speaking face. padding: bytes of a `free` box behind the video."""
    box = (padding + 8).to_bytes(4, "big") + b"free" + bytes(padding)
    files = {"video": ("a.mp4", videos()["mp4"] + box), "audio": ("a.wav", speeches()["wav"])}
    answer = service.client.post("/jobs", files=files, data={"evaluate": "[]"})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def _finish(service: Service, job_id: str) -> tuple[str, str | None]:
    wait_until(lambda: service.get(job_id).status.is_over, 40, 0.05, job_id)
    wait_until(lambda: not list(_inside(service).glob("retalking-attempt-*")), 5)
    job = service.get(job_id)
    if job.error is not None:
        assert "/" not in job.error.message
    return job.status.value, job.error.code if job.error else None


def test_the_disk_is_full_while_an_input_is_fetched(small: Service) -> None:
    assert _finish(small, _submit(small, DISK_KB * 1024)) == ("failed", "disk_full")
    assert _finish(small, _submit(small)) == ("succeeded", None)


def test_the_disk_is_full_while_the_result_is_written(small: Service) -> None:
    """The inputs fit, to the last few kilobytes."""
    free = DISK_KB * 1024 - len(videos()["mp4"]) - len(speeches()["wav"]) - 16384
    assert _finish(small, _submit(small, free)) == ("failed", "disk_full")
    assert _finish(small, _submit(small)) == ("succeeded", None)


def test_the_disk_is_full_before_the_attempt_begins(small: Service) -> None:
    """Another program filled it: folders can still be made, but nothing can be written."""
    filler = _inside(small) / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(2 * DISK_KB * 1024))
    try:
        assert _finish(small, _submit(small)) == ("failed", "disk_full")
    finally:
        filler.unlink()
    assert _finish(small, _submit(small)) == ("succeeded", None)
