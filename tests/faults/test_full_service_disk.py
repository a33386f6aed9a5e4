"""Callers fill the disk that holds the objects, the logs and Redis: the service refuses in time and keeps running."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.console.stack import RunningStack, run_stack
from tests.faults.hostile_bases import speeches, videos
from tests.services import wait_until

pytestmark = pytest.mark.faults

MB = 1_000_000
DISK_BYTES, FLOOR_BYTES, VIDEO_BYTES = 160 * MB, 40 * MB, 20 * MB


@pytest.fixture
def small(tmp_path: Path) -> Iterator[RunningStack]:
    """`retalking up`, whose data folder is a file system of 160 MB that only it sees."""
    data = tmp_path / "data"
    data.mkdir()
    mount = f'mount -t tmpfs -o size={DISK_BYTES} none "$0" && exec "$@"'
    prefix = ("unshare", "--mount", "--map-root-user", "sh", "-c", mount, str(data))
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a file system of his own, so there is no disk to fill")
    with run_stack(tmp_path, prefix, MIN_FREE_BYTES=str(FLOOR_BYTES), FACE_CACHE_BYTES="0") as stack:
        yield stack


def submit(stack: RunningStack) -> httpx.Response:
    """A speaking face, followed by a `free` box that no reader uses."""
    padding = VIDEO_BYTES - len(videos()["mp4"])
    box = padding.to_bytes(4, "big") + b"free" + bytes(padding - 8)
    files = {"video": ("a.mp4", videos()["mp4"] + box), "audio": ("a.wav", speeches()["wav"])}
    return stack.client.post("/jobs", files=files, data={"evaluate": "[]"})


def test_a_disk_that_callers_fill_ends_nothing(small: RunningStack, tmp_path: Path) -> None:
    answers = [submit(small)]
    while answers[-1].status_code == 202:
        assert len(answers) * VIDEO_BYTES < DISK_BYTES, "the floor was passed"
        answers.append(submit(small))
    assert answers[-1].status_code == 507, answers[-1].text
    assert answers[-1].json()["code"] == "storage_full"
    accepted = [answer.json()["id"] for answer in answers[:-1]]
    assert len(accepted) >= 3

    def statuses() -> set[str]:
        return {small.client.get(f"/jobs/{job_id}").json()["status"] for job_id in accepted}

    wait_until(lambda: statuses() <= {"succeeded", "failed", "canceled"}, 120, 0.5, "what was accepted is over")
    assert statuses() == {"succeeded"}
    assert small.client.get("/readyz").status_code == 200
    assert "Redis died" not in (tmp_path / "up.log").read_text()
    assert submit(small).status_code == 507
    assert small.client.delete(f"/jobs/{accepted[0]}").status_code == 204
    assert submit(small).status_code == 202, "at once, without a restart"
