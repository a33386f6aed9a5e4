"""Rules about the source tree that hold in every commit."""

import shutil
import subprocess
import sys
from pathlib import Path

from jobs.errors import ERROR_CODES
from retalking_core import errors as core_errors

ROOT = Path(__file__).resolve().parents[1]


def _subclasses(cls: type) -> set[type]:
    return {cls} | {deep for child in cls.__subclasses__() for deep in _subclasses(child)}


def test_the_import_rule_holds() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    tool = str(lint) if lint.exists() else shutil.which("lint-imports")
    assert tool, "import-linter is part of the dev extra"
    done = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_benchmark_can_be_imported() -> None:
    """Nothing else runs most of them, so a name that moved would be missed on the day of the measurement. In a process
    of its own: entries of workers change settings of the process."""
    names = sorted(file.stem for file in (ROOT / "bench").glob("*.py"))
    assert "soak" in names
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(f'bench.{name}')"
    command = [sys.executable, "-c", code, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_error_of_the_library_has_a_public_row() -> None:
    codes = {cls.code for cls in _subclasses(core_errors.RetalkingError)}
    assert codes <= set(ERROR_CODES), codes - set(ERROR_CODES)
    assert len(codes) > 15


def test_the_api_starts_without_media_libraries() -> None:
    """Dockerfile.api installs neither numpy nor PyAV: importing the API must not need them."""
    code = (
        "import sys, api.main, jobs.opening, worker.webhooks\n"
        "heavy = {'numpy', 'cv2', 'av', 'dlib', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
