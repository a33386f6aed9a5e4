"""The whole service as its user starts it: `retalking up` on a bare machine, and a client on its address."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.services import free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Service:
    """A running stack. finish() waits for a job's end and returns its view."""

    url: str
    client: httpx.Client
    data_dir: Path

    def submit(self, video: Path, audio: Path, **fields: str) -> httpx.Response:
        with video.open("rb") as picture, audio.open("rb") as speech:
            files = {"video": (video.name, picture), "audio": (audio.name, speech)}
            return self.client.post("/jobs", files=files, data=fields)

    def finish(self, job_id: str, timeout_s: float = 180.0) -> dict[str, Any]:
        def is_over() -> bool:
            return self.client.get(f"/jobs/{job_id}").json()["status"] in {"succeeded", "failed", "canceled"}

        wait_until(is_over, timeout_s, 0.2, f"{job_id} is over")
        return self.client.get(f"/jobs/{job_id}").json()

    def download(self, job_id: str, target: Path) -> Path:
        with self.client.stream("GET", f"/jobs/{job_id}/result", follow_redirects=True) as answer:
            answer.raise_for_status()
            with target.open("wb") as out:
                for chunk in answer.iter_bytes():
                    out.write(chunk)
        return target


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: Path, timeout_s: float) -> None:
    def is_ready() -> bool:
        assert process.poll() is None, f"`retalking up` ended with {process.returncode}:\n{log.read_text()}"
        try:
            return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(is_ready, timeout_s, 0.2, f"ready; log: {log}")


@contextmanager
def running_service(data_dir: Path, ready_s: float = 90.0, **settings: str) -> Iterator[Service]:
    """`retalking up` with these settings and no others."""
    log = data_dir / "up.log"
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RETALKING_")} | settings
    command = [sys.executable, "-m", "cli.main", "up", "--port", str(port), "--data", str(data_dir / "data")]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink, env=environment)
    try:
        _wait_ready(url, process, log, ready_s)
        with httpx.Client(base_url=url, timeout=60) as client:
            yield Service(url, client, data_dir / "data")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0, log.read_text()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("stack")) as service:
        yield service


@pytest.fixture
def succeed(service: Service) -> Callable[..., dict[str, Any]]:
    """Submit, wait, and insist on success."""

    def run(video: Path, audio: Path, **fields: str) -> dict[str, Any]:
        answer = service.submit(video, audio, **fields)
        assert answer.status_code == 202, answer.text
        job = service.finish(answer.json()["id"])
        assert job["status"] == "succeeded", job["error"]
        return job

    return run
