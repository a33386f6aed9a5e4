"""examples/engine_plugin from its wheel, in an environment of its own beside the wheel of the service; no network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from retalking_core.engine_conformance import Clips, make_clips
from tests.api.running import ROOT
from tests.client.test_wheels import build, copy_sources

pytestmark = pytest.mark.timeout(600)
EXAMPLE = ROOT / "examples" / "engine_plugin"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of programs of a fresh environment that shares this one's packages, but not its checkout."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "shared.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    sources = tmp_path_factory.mktemp("sources")
    copies = {
        "service": copy_sources(sources / "service"),
        "example": Path(shutil.copytree(EXAMPLE, sources / "example", ignore=shutil.ignore_patterns("__pycache__"))),
    }
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
    for name, source in copies.items():
        wheels = tmp_path_factory.mktemp(name)
        build(source, wheels).close()
        (wheel,) = wheels.glob("*.whl")
        command = [*install, "--quiet", "--no-deps", "--no-index", str(wheel)]
        subprocess.run(command, check=True, timeout=240)
    return folder / "bin"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return make_clips(tmp_path_factory.mktemp("clips"))


def run(*command: object, cwd: Path, code: int = 0, **settings: str) -> str:
    keep = {"PATH", "HOME", "LANG", "TMPDIR", "OMP_NUM_THREADS"}
    environment = {name: value for name, value in os.environ.items() if name in keep} | settings
    done = subprocess.run(
        [str(each) for each in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == code, (command, done.stdout, done.stderr)
    return done.stdout + done.stderr


def test_the_engine_runs_by_its_name(environment: Path, clips: Clips, tmp_path: Path) -> None:
    command = (environment / "retalking", "run", clips.face, clips.speech, "--out", "result.mp4", "--engine")
    assert "by the engine `puppet` on cpu" in run(*command, "puppet", cwd=tmp_path)
    assert (tmp_path / "result.mp4").stat().st_size > 1000
    assert "by the engine `preview` on cpu" in run(*command, "auto", cwd=tmp_path)
    refused = run(*command, "puppet", "--option", "one_shot=true", cwd=tmp_path, code=1)
    assert "unsupported_option" in refused
    missing = run(*command, "pupet", cwd=tmp_path, code=1)
    assert "engine_unavailable" in missing
    assert "it holds: preview, puppet" in missing


def test_the_doctor_sees_it(environment: Path, tmp_path: Path) -> None:
    settings = {"RETALKING_REDIS_URL": "redis://127.0.0.1:9/0", "RETALKING_DATA_DIR": str(tmp_path)}
    told = run(environment / "retalking", "doctor", "--json", cwd=tmp_path, code=1, **settings)
    findings = {row["subject"]: row for row in json.loads(told[told.index("[") : told.rindex("]") + 1])}
    assert findings["engine puppet"]["state"] == "ok"
    assert "retalking-puppet-engine 1.0.0" in findings["engine puppet"]["found"]
    assert findings["engine preview"]["state"] == "ok"


def test_it_passes_the_conformance_tests(environment: Path, tmp_path: Path) -> None:
    tests = shutil.copytree(EXAMPLE / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    told = run(environment / "python", "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", tests, cwd=tmp_path)
    assert " passed" in told
    assert "failed" not in told


# What is wrong -> part of the engine's source, the same broken, and the test that must find it.
FAULTS = {
    "draws outside its region": ("face_margin=0.25", "face_margin=0.0", "test_pixels_outside_the_declared_region"),
    "ignores what it cannot do": (
        "refuse_unsupported(options, self.capabilities)",
        "pass",
        "test_unsupported_options_are_refused",
    ),
    "progress falls": ("done / (count + 1), done, count)", "(1 - done / count), done, count)", "test_progress_rises"),
    "a name that no job can ask for": ('name="puppet"', 'name="Puppet Engine"', "test_capabilities_describe"),
    "changes frames without a face": (
        "        return frame\n    face_px",
        "        return Frame(frame.index, frame.y + 1, frame.u, frame.v)\n    face_px",
        "test_frames_without_a_face_pass_through",
    ),
    "counts frames wrong": ("frames=count", "frames=count + 1", "test_the_report_describes_the_file"),
    "ends with the video": (
        "zip(timeline.source_index, frames, strict=True)",
        "zip(timeline.source_index[: source.info.frame_count], frames)",
        "test_length_modes",
    ),
    "draws nothing": ("drop = even(opening", "drop = even(0 * opening", "test_the_mouth_moves"),
    "leaves a file behind": (
        "        refuse_unsupported(options, self.capabilities)\n",
        '        refuse_unsupported(options, self.capabilities)\n        result.with_suffix(".part").touch()\n',
        "test_a_canceled_render_ends",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_an_engine_is_found(fault: str, tmp_path: Path, environment: Path) -> None:
    right, wrong, test = FAULTS[fault]
    package = Path(shutil.copytree(EXAMPLE / "puppet_engine", tmp_path / "puppet_engine"))
    source = (package / "engine.py").read_text()
    assert right in source
    (package / "engine.py").write_text(source.replace(right, wrong))
    tests = shutil.copytree(EXAMPLE / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    pytest_ = (environment / "python", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", tests, "-k", test)
    told = run(*pytest_, cwd=tmp_path, code=1, PYTHONPATH=str(tmp_path))
    assert "1 failed" in told
    assert f"::{test}" in told
