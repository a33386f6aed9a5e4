"""Branch coverage by marks: what coverage.py's tracer finds, also in processes that are killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from coverage import Coverage

from checks.branch_coverage import measure, write

PROGRAM = '''"""Text."""

from __future__ import annotations

import contextlib
import enum
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Color(enum.Enum):
    """A class whose body must hold no other names."""

    RED = 1
    if RED:
        GREEN = 2

    @property
    def is_red(self) -> bool:
        return self is Color.RED


def branches(number: int) -> int:
    if (
        number > 3
        and number < 100
    ):
        number += 1
    elif number == 2:
        pass
    for each in range(number):
        if each == 7:
            break
        if each % 2:
            continue
    else:
        number += 1
    while number > 5:
        number -= 1
        with contextlib.suppress(ZeroDivisionError):
            if number == 6:
                1 / 0
    with contextlib.nullcontext():
        for _ in range(2):
            if number:
                return 5


def chosen(value: object) -> str:
    match value:
        case 1 | 2:
            return "low"
        case int():
            result = "number"
        case [first, *_] if first:
            result = "list"
    match value:
        case 5:
            result = "five"
        case _:
            result = "other"
    return result


def caught(kind: type[Exception] | None) -> str:
    try:
        if kind:
            raise kind
    except ValueError:
        return "value"
    except KeyError as error:
        del error
    else:
        return "none"
    finally:
        if kind is ValueError:
            print("finally")
        kind = None
    return "end"


@contextlib.contextmanager
def twice(flag: bool):
    """Two decorated lines."""
    yield 1
    if flag:
        print("flag")


def numbers(stop: int):
    for number in range(stop):
        if number > 2:
            return
        yield number


def never() -> None:
    if Color.RED:
        print("never")


'''
CALLS = [
    "branches(1)",
    "branches(2); branches(9)",
    "branches(50)",
    "chosen(1); chosen(5)",
    "chosen([3])",
    "caught(None)\ncaught(ValueError)",
    "caught(KeyError)",
    "caught(KeyError); list(numbers(9))",
    "list(numbers(1))\nwith twice(True): pass",
    "assert [*Color.__members__] == ['RED', 'GREEN']; Color.RED.is_red",
]


def findings(data_file: Path, path: Path) -> dict[str, list[str]]:
    reader = Coverage(data_file=str(data_file), config_file=False, branch=True)
    reader.load()
    report = data_file.with_suffix(".json")
    reader.json_report(morfs=[str(path)], outfile=str(report))
    (found,) = json.loads(report.read_text())["files"].values()
    names = ("executed_lines", "missing_lines", "executed_branches", "missing_branches")
    return {name: sorted(map(str, found[name])) for name in names}


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where to write a module that processes find by its name."""
    source = tmp_path / "source"
    source.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(source))
    return source / "program.py"


def measured(program: Path, folder: Path) -> dict[str, list[str]]:
    code, found = measure([sys.executable, "-m", "program"], [program.parent])
    assert code == 0
    write(found, folder / "marks")
    return findings(folder / "marks", program)


@pytest.mark.parametrize("calls", CALLS)
def test_what_is_found_is_what_the_tracer_finds(calls: str, program: Path, tmp_path: Path) -> None:
    program.write_text(PROGRAM + calls.replace("; ", "\n") + "\n")
    options = ["--rcfile=", "--branch", f"--source={program.parent}", f"--data-file={tmp_path / 'traced'}"]
    subprocess.run([sys.executable, "-m", "coverage", "run", *options, "-m", "program"], check=True)
    assert measured(program, tmp_path) == findings(tmp_path / "traced", program)


def test_processes_that_are_forked_and_killed_are_measured(program: Path, tmp_path: Path) -> None:
    program.write_text(
        """import os, signal, subprocess, sys
if len(sys.argv) > 1:
    os.kill(os.getpid(), signal.SIGKILL)
elif os.fork() == 0:
    os._exit(0)
os.wait()
subprocess.run([sys.executable, "-m", "program", "again"])
if not sys.argv:
    print("never")
"""
    )
    found = measured(program, tmp_path)
    assert found["missing_lines"] == ["9"]
    assert found["missing_branches"] == ["[8, 9]"]
