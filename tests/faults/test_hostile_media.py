"""Hostile files through the real API, the real preview engine and its decoders, traced by strace.

Where strace is installed and allowed, every file that the worker opens and every address that it connects to is seen.
A seventh of the files runs by default, always the same one; `-m faults_long` runs all.
"""

from __future__ import annotations

import datetime
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import httpx
import pytest

from jobs.errors import ERROR_CODES
from tests.faults.hostile_bases import speeches, videos
from tests.faults.hostile_media import INPUT_CODES, Bait, HostileFile, hostile_files
from tests.faults.service import Service
from tests.services import S3Endpoint, wait_until
from tests.worker.conftest import ROOT

pytestmark = pytest.mark.faults

ROUNDS = 7
TRIED_ROUND = 0
LIMIT_S = 30
LEAKS = ("Traceback", str(ROOT), "/tmp", "retalking-attempt", "object at 0x")
# What a render of the largest pictures that are allowed may take
MEMORY_LIMIT_KB = 3_000_000


@dataclass
class Guarded:
    """The service, the bait beside it, and the output of strace (None where it is not installed)."""

    service: Service
    bait: Bait
    trace: Path | None
    visits: list[str] = field(default_factory=list)

    @property
    def worker_pid(self) -> int:
        return self.service.workers[0].pid

    @property
    def child(self) -> int:
        (child,) = self.service.workers[0].children
        return child


def _strace_prefix(trace: Path) -> tuple[str, ...]:
    """As a grandchild, so that the worker stays our child; only for the calls that matter, so that it stays fast."""
    if shutil.which("strace") is None:
        print("strace is not installed: files and addresses are watched by bait only")
        return ()
    command = ("strace", "-D", "-f", "--seccomp-bpf", "-qq", "-e", "trace=open,openat,connect,execve", "-o", str(trace))
    if subprocess.run([*command, "true"], capture_output=True, check=False, timeout=20).returncode != 0:
        print("strace is not allowed here: files and addresses are watched by bait only")
        return ()
    return command


@pytest.fixture(scope="module")
def guarded(s3: S3Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("hostile")
    file = folder / "bait.mp4"
    file.write_bytes(videos()["mp4"])
    trace = folder / "trace"
    prefix = _strace_prefix(trace)
    service = Service(
        folder / "service",
        s3.with_bucket("hostile"),
        workers=1,
        render_app="worker.gpu",
        worker_prefix=prefix,
        LEASE_S="5",
        RENDER_LIMIT_S=str(LIMIT_S),
        MAX_VIDEO_S="20",
        MAX_AUDIO_S="20",
        WORKER_MEMORY_BYTES="4000000000",
    )
    with _bait_port() as (port, visits):
        try:
            yield Guarded(service.start(), Bait(file, port), trace if prefix else None, visits)
        finally:
            service.stop()


class _bait_port:
    """(port, what was asked of it)"""

    def __enter__(self) -> tuple[int, list[str]]:
        visits: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                visits.append(self.path)
                self.send_response(404)
                self.end_headers()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self._server.server_address[1], visits

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def chosen(files: list[HostileFile]) -> list[HostileFile]:
    """A seventh of the files. RETALKING_HOSTILE_ROUND (0 to 6) chooses another one: the default never changes."""
    number = int(os.environ.get("RETALKING_HOSTILE_ROUND", TRIED_ROUND)) % ROUNDS
    assert len(files) >= 300
    print(f"hostile files: round {number} of {ROUNDS} (RETALKING_HOSTILE_ROUND={number} repeats it)")
    return files[number::ROUNDS]


def test_a_seventh_of_the_hostile_files(guarded: Guarded, tmp_path: Path) -> None:
    check_hostile(guarded, chosen(hostile_files(guarded.bait)), tmp_path)


@pytest.mark.faults_long
@pytest.mark.timeout(3600)
def test_every_hostile_file(guarded: Guarded, tmp_path: Path) -> None:
    files = hostile_files(guarded.bait)
    assert len(files) >= 300
    check_hostile(guarded, files, tmp_path)


def check_hostile(guarded: Guarded, files: list[HostileFile], folder: Path) -> None:
    service = guarded.service
    assert _finish(service, _submit(service, HostileFile("sound", "video", videos()["mp4"])))["status"] == "succeeded"
    child, began = guarded.child, len(_lines(guarded))
    outcomes: dict[str, str] = {}
    wrong: list[str] = []
    for batch in (files[at : at + 20] for at in range(0, len(files), 20)):
        answers = [(each, _submit(service, each)) for each in batch]
        for each, answer in answers:
            outcome, complaint = _judge(service, answer, folder)
            outcomes[each.name] = outcome
            if complaint:
                wrong.append(f"{each.name} ({each.slot}): {complaint}")
    print(len(files), "hostile files:", Counter(outcomes.values()))
    assert wrong == []
    assert guarded.child == child, "the render process died"
    assert _peak_kb(child) < MEMORY_LIMIT_KB
    assert guarded.visits == []
    assert _finish(service, _submit(service, HostileFile("sound", "video", videos()["mp4"])))["status"] == "succeeded"
    wait_until(lambda: not list(service.work_dir.glob("retalking-attempt-*")), 10)
    _check_trace(guarded, began)


def _submit(service: Service, file: HostileFile) -> httpx.Response:
    other = {"video": ("audio", speeches()["wav"]), "audio": ("video", videos()["png"])}[file.slot]
    files = {file.slot: (f"{file.name}.mp4", file.content), other[0]: ("other", other[1])}
    return service.client.post("/jobs", files=files, data={"evaluate": "[]"})


def _finish(service: Service, answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    wait_until(lambda: service.get(job_id).status.is_over, 20 * LIMIT_S, 0.05, job_id)
    return service.client.get(f"/jobs/{job_id}").json()


def _judge(service: Service, answer: httpx.Response, folder: Path) -> tuple[str, str]:
    """(outcome, complaint or '')"""
    if answer.status_code != 202:
        problem = answer.json()
        return f"refused: {problem['code']}", _complaint(problem["code"], problem["detail"])
    job = _finish(service, answer)
    run_s = _seconds(job["finished_at"]) - _seconds(job["started_at"])
    if run_s > LIMIT_S:
        return "too slow", f"{run_s:.1f} s"
    if job["status"] == "failed":
        return f"failed: {job['error']['code']}", _complaint(job["error"]["code"], job["error"]["message"])
    return job["status"], _watch(service, job, folder / "result.mp4")


def _complaint(code: str, sentence: str) -> str:
    if code not in ERROR_CODES or code not in INPUT_CODES:
        return f"{code}: {sentence}"
    return "".join(f"{code} leaks {leak!r}" for leak in LEAKS if leak in sentence)


def _watch(service: Service, job: dict[str, Any], path: Path) -> str:
    """Also the result of an unusual input must be a complete video."""
    path.write_bytes(service.client.get(f"/jobs/{job['id']}/result").content)
    with av.open(str(path)) as film:
        pictures = sum(1 for _ in film.decode(video=0))
        with_sound = len(film.streams.audio)
    if (pictures, with_sound) != (job["result"]["frames"], 1):
        return f"{pictures} pictures and {with_sound} sounds; {job['result']['frames']} pictures were promised"
    return "" if job["result"]["sha256"] and pictures else "an empty film"


def _seconds(stamp: str) -> float:
    return datetime.datetime.fromisoformat(stamp).timestamp()


def _peak_kb(pid: int) -> int:
    (line,) = [row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("VmHWM")]
    return int(line.split()[1])


def _lines(guarded: Guarded) -> list[str]:
    return guarded.trace.read_text(errors="replace").splitlines() if guarded.trace else []


def _check_trace(guarded: Guarded, began: int) -> None:
    """The worker opened files of its own and of the interpreter only, connected to Redis and the bucket only, and
    started no program."""
    if guarded.trace is None:
        return
    time.sleep(0.5)  # strace writes a little later
    service = guarded.service
    ours = (str(service.folder), sys.prefix, sys.base_prefix, str(ROOT), "/proc/", "/sys/", "/dev/", "/usr/", "/lib")
    ours += tuple(folder for folder in sys.path if folder)  # packages may lie outside the environment
    ports = {service.redis.port, int(service.proxy.endpoint.rpartition(":")[2])}
    strange = []
    for line in _lines(guarded)[began:]:
        opened = re.search(r'open(?:at)?\((?:[^"]*)"([^"]*)"', line)
        if opened and opened[1].startswith("/") and not opened[1].startswith(ours):
            strange.append(line)
        port = re.search(r"sin6?_port=htons\((\d+)\)", line)
        # AF_UNIX is local: libuuid asks its daemon that way
        if "connect(" in line and "sa_family=AF_INET" in line and not (port and int(port[1]) in ports):
            strange.append(line)
        if "execve(" in line:
            strange.append(line)
    assert strange == []
