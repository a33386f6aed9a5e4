"""The whole service as its user starts it, for the pages to talk to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.services import first_on_path, free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class RunningStack:
    url: str
    client: httpx.Client


@contextmanager
def run_stack(folder: Path, prefix: tuple[str, ...] = (), **env: str) -> Iterator[RunningStack]:
    """`retalking up` on a free port, ready for jobs. prefix: of the command. env: settings by name, without theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "up.log"
    plain = {key: value for key, value in os.environ.items() if not key.startswith("RETALKING_")}
    variables = (
        plain | {f"RETALKING_{name}": value for name, value in env.items()} | {"PYTHONPATH": first_on_path(ROOT)}
    )
    command = [*prefix, sys.executable, "-m", "cli.main", "up", "--port", str(port), "--data", str(folder / "data")]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink, env=variables)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            wait_until(lambda: _is_ready(client, process, log), 120, 0.3, "`retalking up` is ready")
            yield RunningStack(str(client.base_url), client)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
