"""A short soak, in which every process is killed while well-behaved and hostile callers use the service; and what the
verdict of a soak has to notice, on made-up samples."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from types import SimpleNamespace

import pytest

from bench.soak_callers import API_BROKEN, UNAVAILABLE, Failure, Ledger
from bench.soak_service import Kill, Points
from bench.soak_verdict import cost_per_job, judge_failures, judge_memory, judge_queues, trend
from tests.worker.conftest import ROOT


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("objects", ["s3", "folder"])
def test_a_short_soak_breaks_no_promise(objects: str) -> None:
    arguments = ("--jobs", "60", "--clients", "10", "--minutes", "1", "--kill-every", "10", "--objects", objects)
    run = subprocess.run(
        [sys.executable, "-m", "bench.soak", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def _process(level_mb: float, mb_per_s: float, length_s: int = 120) -> Points:
    return [(float(age), level_mb + mb_per_s * age) for age in range(length_s)]


def _watch(memory: dict[str, dict[int, Points]], **queues: Points) -> SimpleNamespace:
    return SimpleNamespace(memory=defaultdict(dict, memory), redis_data=[], bucket=[], queues=queues, length_s=400.0)


def test_growth_is_seen_across_restarts_of_a_process() -> None:
    """Each process starts at another level, and no single one of them grows by much."""
    found = trend([_process(80, 0.05), _process(120, 0.05), _process(60, 0.05)], warm_up_s=20)
    assert found is not None
    assert found.mb_per_hour == pytest.approx(180)
    assert found.judged_s == pytest.approx(3 * 99)


def test_memory_that_grows_is_a_violation_and_memory_that_rose_at_the_start_is_none() -> None:
    ledger = Ledger()
    warming = [(age, 100 + min(age, 100) * 2.0) for age, _ in _process(0, 0, 400)]
    judge_memory(_watch({"api": {1: _process(80, 0.1, 500)}, "webhooks": {2: warming}}), ledger)
    assert list(ledger.violations) == ["memory of the api grew"]
    still = Ledger()
    judge_memory(_watch({"api": {1: _process(150, 0.043, 478)}}), still)  # 155 MB an hour, but 8 MB in all
    assert not still.violations


def test_the_cost_of_a_job_is_compared_between_the_first_and_the_last_third() -> None:
    growing = [(jobs, jobs**2 / 1000) for jobs in range(300)]
    first, last = cost_per_job(growing)
    assert last > 3 * first


def test_a_queue_that_grows_in_the_middle_is_a_violation_and_a_peak_after_a_kill_is_none() -> None:
    ledger = Ledger()
    growing = [(float(at), at / 4) for at in range(400)]
    peaked = [(float(at), 60.0 if 250 < at < 270 else 2.0) for at in range(400)]
    judge_queues(_watch({}, growing=growing, peaked=peaked), ledger)
    assert list(ledger.violations) == ["growing grew in the middle of the run"]


@pytest.mark.parametrize(
    ("cause", "ended", "is_explained"),
    [
        (API_BROKEN, 100.5, True),
        (API_BROKEN, 103.5, True),
        (API_BROKEN, 99.0, False),
        (API_BROKEN, 106.0, False),
        (UNAVAILABLE, 100.5, False),
        ("500 internal_error", 100.5, False),
        ("ReadTimeout", 100.5, False),
        (UNAVAILABLE, 201.0, True),
        (API_BROKEN, 201.0, False),
        (API_BROKEN, 301.0, False),
    ],
)
def test_a_kill_explains_only_what_its_process_can_cause_and_only_for_seconds(
    cause: str, ended: float, is_explained: bool
) -> None:
    kills = [
        Kill(kind, began, began + 3, 0.0, None) for kind, began in (("api", 100), ("redis", 200), ("webhooks", 300))
    ]
    ledger = Ledger(failures=[Failure("look", cause, ended)])
    assert judge_failures(kills, ledger) == int(is_explained)
    assert bool(ledger.violations) is not is_explained
