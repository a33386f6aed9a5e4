"""Clocks are set while jobs are in flight: that of Redis by an hour, those of all other processes by four minutes.

Four, since receivers refuse webhooks that were signed five minutes off, and S3 stores requests that were signed fifteen
minutes off; both are right to.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.opening import connect_redis
from tests.faults.outcome import check_outcomes
from tests.faults.service import Service
from tests.services import S3Endpoint, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.faults_long]

STORE_JUMP_S = 3600
PROCESS_JUMP_S = 240


class Clock:
    """Offset of the wall clock of the processes that share it, in seconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(8))

    def set(self, seconds: int) -> None:
        """In place: the file is mapped."""
        descriptor = os.open(self.path, os.O_WRONLY)
        os.write(descriptor, struct.pack("<q", seconds))
        os.close(descriptor)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler here, and without a preloaded library no clock of a process can be moved")
    target = tmp_path_factory.mktemp("clock") / "clock_shift.so"
    source = Path(__file__).with_name("clock_shift.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(target), str(source), "-ldl"], check=True)
    return target


@pytest.fixture
def shifted(
    library: Path, s3: S3Endpoint, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[Service, Clock, Clock]]:
    """(service, the clock of Redis, the clock of everything else)"""
    store_clock, process_clock = Clock(tmp_path / "store"), Clock(tmp_path / "processes")
    service = Service(
        tmp_path / "service",
        s3.with_bucket(f"clock-{tmp_path.name.replace('_', '-')}"[:60].rstrip("-").lower()),
        redis_launcher=("/usr/bin/env", f"LD_PRELOAD={library}", f"CLOCK_SHIFT_FILE={store_clock.path}"),
    )
    service.environment |= {"LD_PRELOAD": str(library), "CLOCK_SHIFT_FILE": str(process_clock.path)}
    try:
        yield service.start(), store_clock, process_clock
    finally:
        service.stop()


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("whose", ["store", "processes", "both"])
def test_a_clock_is_set(shifted: tuple[Service, Clock, Clock], whose: str, direction: int) -> None:
    """A jump ahead may cost a lease, and so an attempt; never a job, and never a second result."""
    service, store_clock, process_clock = shifted
    with connect_redis(service.redis.url) as client:
        before_s = client.time()[0]
        jobs = service.submit_many(2000, 500, 500, 0)
        service.wait_running(jobs[0])
        if whose in ("store", "both"):
            store_clock.set(direction * STORE_JUMP_S)
            wait_until(  # the server caches its clock for a moment
                lambda: abs(client.time()[0] - before_s - direction * STORE_JUMP_S) < 60, what="Redis' clock has moved"
            )
        if whose in ("processes", "both"):
            process_clock.set(direction * PROCESS_JUMP_S)
    later = service.submit_many(0, 300)
    for job in check_outcomes(service, [*jobs, *later], timeout_s=90):
        assert job.attempt <= 2


def test_a_process_clock_that_the_bucket_refuses(shifted: tuple[Service, Clock, Clock]) -> None:
    """An hour off: submissions get 503, and are accepted when the clock is right again."""
    service, _, process_clock = shifted
    process_clock.set(3600)
    answer = service.post()
    assert (answer.status_code, answer.json()["retryable"]) == (503, True)
    process_clock.set(0)
    check_outcomes(service, [service.submit()])
