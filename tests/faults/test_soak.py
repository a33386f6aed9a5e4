"""A short soak: every process is killed in turn while well-behaved and hostile callers use the service."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.worker.conftest import ROOT

pytestmark = pytest.mark.faults


@pytest.mark.timeout(900)
def test_a_short_soak_breaks_no_promise() -> None:
    arguments = ("--jobs", "60", "--clients", "10", "--minutes", "0.5", "--kill-every", "10")
    run = subprocess.run(
        [sys.executable, "-m", "bench.soak", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
