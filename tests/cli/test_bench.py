"""`retalking bench`: its own help, its refusals, and the guard against slower figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from bench import service
from bench.engine_cases import CASES, SLOWER_BY, slower_cases
from cli.main import app


def document(**walls_s: float) -> dict:
    return {"runs": [{"case": {"name": name}, "wall_s": wall_s} for name, wall_s in walls_s.items()]}


def test_help_lists_every_case() -> None:
    result = CliRunner().invoke(app, ["bench", "--help"])
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    assert all(case.name in text for case in CASES)


def test_the_installed_command_finds_the_benchmarks_of_its_checkout(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("retalking")
    done = subprocess.run([command, "bench", "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_missing_speech_track_is_wrong_usage() -> None:
    result = CliRunner().invoke(app, ["bench", "video.mp4"])
    assert result.exit_code == 2


def test_the_guard_lists_what_became_slower() -> None:
    now = document(one=2.0, two=2.0 * SLOWER_BY + 0.1, new=9.0)
    assert slower_cases(now, document(one=2.0, two=2.0, gone=1.0)) == ["two: 2.30 s, was 2.00 s"]
    assert slower_cases(now, now) == []


def test_percentiles_are_values_that_were_measured() -> None:
    values = [3.0, 1.0, 2.0, 4.0]
    assert [service.percentile(values, share) for share in (0.25, 0.5, 0.95, 1.0)] == [1.0, 2.0, 4.0, 4.0]
    assert service.percentile([7.0], 0.5) == 7.0


def test_the_guard_of_the_service_compares_cpu_seconds() -> None:
    def measured(**values: float) -> dict:
        runs = {name: [value, 2 * value] for name, value in values.items()}
        return {"figures": {name: {"min": min(found)} for name, found in runs.items()}}

    before = measured(**{"start, CPU s": 4.0, "job inline, CPU s": 2.0, "job inline, s": 1.0})
    now = measured(**{"start, CPU s": 4.0 * service.SLOWER_BY + 0.1, "job inline, CPU s": 2.0, "job inline, s": 9.0})
    assert service.worse_figures(now, before) == ["start, CPU s: 4.70, was 4.00"]
    assert service.worse_figures(before, before) == []
