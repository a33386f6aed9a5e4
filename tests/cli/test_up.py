"""`retalking up`: real processes, killed and restarted."""

from __future__ import annotations

import re
import signal
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest

from tests.cli.conftest import Ended, Up, run_command
from tests.services import wait_until

pytestmark = pytest.mark.e2e
Start = Callable[..., Up]


def submit(url: str, portrait: Path, speech: Path) -> str:
    with portrait.open("rb") as face, speech.open("rb") as sound:
        answer = httpx.post(f"{url}/jobs", files={"video": face, "audio": sound}, data={"evaluate": "[]"}, timeout=30)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def status(url: str, job_id: str) -> str:
    return httpx.get(f"{url}/jobs/{job_id}", timeout=10).json()["status"]


def assert_gone(processes: list[psutil.Process]) -> None:
    assert len(processes) >= 6, "up, Redis, two workers with a pool process, API"
    names = {process: " ".join(process.cmdline()) for process in processes if is_alive(process)}
    try:
        wait_until(lambda: not any(map(is_alive, processes)), 20, 0.1)
    except AssertionError:
        left = [names.get(process, str(process)) for process in processes if is_alive(process)]
        raise AssertionError(f"left of the stack after 20 s: {left}") from None


def is_alive(process: psutil.Process) -> bool:
    """A zombie is dead: it only waits for the machine's init to take note of it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_queued_jobs_outlive_a_restart(start_up: Start, tmp_path: Path, portrait: Path, short_speech: Path) -> None:
    # `api` and `worker` are common names for folders: what lies where the user stands must not be imported.
    for name in ("api", "worker"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
    data = tmp_path / "data"
    first = start_up(data)
    url = first.url()
    jobs = [submit(url, portrait, short_speech) for _ in range(6)]
    assert f"{url}/jobs" in first.text, "the curl line"
    family = first.family()
    check_secrets(data, family)

    assert first.stop(signal.SIGINT) == 0, first.text
    assert_gone(family)

    restarted_at = datetime.now(UTC)
    second = start_up(data)
    url = second.url()
    for job in jobs:
        wait_until(lambda job=job: status(url, job) == "succeeded", 60, 0.2, f"{job} succeeds after the restart")
    finished_at = datetime.fromisoformat(httpx.get(f"{url}/jobs/{jobs[-1]}").json()["finished_at"])
    assert finished_at > restarted_at, "the last one was still waiting when the service stopped"
    family = second.family()
    assert second.stop(signal.SIGTERM) == 0, second.text
    assert_gone(family)


def check_secrets(data: Path, family: list[psutil.Process]) -> None:
    """Closed files, and nothing secret on a command line."""
    secrets = [path for path in (data / "secrets").iterdir() if path.is_file()]
    assert {path.name for path in secrets} >= {"link_secret", "webhook_secret"}
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    for path in secrets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    password = (data / "redis" / "secrets" / "redis_password").read_text().strip()
    assert len(password) > 20
    hidden = [password, *(path.read_text().strip() for path in secrets)]
    lines = [" ".join(process.cmdline()) for process in family]
    assert not [line for line in lines for secret in hidden if secret in line]


def test_what_is_taken_is_refused_and_what_dies_comes_back(
    start_up: Start, call: Callable[..., Ended], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    up = start_up(data)
    url = up.url()

    same_folder = call("up", "--port", "0", "--data", str(data))
    assert same_folder.code == 3
    assert same_folder.err.startswith(f"error: data_folder_in_use: Another retalking (process {up.process.pid})")

    port = url.rpartition(":")[2]
    same_port = call("up", "--port", port, "--data", str(tmp_path / "other"))
    assert same_port.code == 3
    assert same_port.err.startswith(f"error: port_in_use: Cannot listen on 127.0.0.1 port {port}")
    assert len(same_port.err.splitlines()) == 1

    api = next(process for process in up.family() if process.name() == "API")
    api.kill()
    wait_until(lambda: "API restarted" in (data / "logs" / "up.log").read_text(), 20, 0.1, "the API comes back")
    assert httpx.get(f"{url}/healthz", timeout=20).status_code == 200, "callers wait in line meanwhile"
    assert "API was killed by SIGKILL; restarting in 1 s" in (data / "logs" / "up.log").read_text()

    redis = next(process for process in up.family() if process.cmdline()[0].endswith("valkey-server"))
    redis.kill()
    wait_until(lambda: "Redis died and was restarted" in (data / "logs" / "up.log").read_text(), 20, 0.1, "Redis")
    wait_until(lambda: httpx.get(f"{url}/readyz", timeout=20).status_code == 200, 40, 0.2, "the stack is well again")

    family = up.family()
    up.process.kill()
    assert_gone(family)
    again = start_up(data)
    assert httpx.get(f"{again.url()}/readyz", timeout=10).status_code == 200


def test_a_part_that_can_not_start_is_named_with_its_log(tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = run_command("up", "--port", "0", "--data", str(data), cwd=tmp_path, RETALKING_LINK_SECRET="short")
    assert done.returncode == 3
    # Whichever part reads it first.
    assert re.search(r"error: start_failed: The (API|webhook worker|render worker) exited with code", done.stderr)
    assert "RETALKING_LINK_SECRET has fewer than 16 characters" in done.stderr
    left = [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(data)]
    assert not left


def test_an_engine_that_can_not_be_loaded_is_named_at_once(tmp_path: Path) -> None:
    done = run_command(
        "up", "--port", "0", "--data", str(tmp_path / "data"), cwd=tmp_path, RETALKING_ENGINE="uninstalled"
    )
    assert done.returncode == 3
    assert "error: engine_unavailable: " in done.stderr
    assert "No installed package declares an engine of this name" in done.stderr
