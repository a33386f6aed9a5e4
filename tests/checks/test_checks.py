"""The checks find what they are for."""

from __future__ import annotations

import hashlib
import json
import secrets
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import grimp
import pytest
import yaml
from packaging.requirements import Requirement

from checks.dependencies import ROOT, SERVER, below_floor, unbounded, unexplained, unlocked
from checks.import_cycles import find_cycles
from checks.locks import PYTHONS, resolve
from checks.secret_scan import find_secrets
from jobs.store.keys import new_key_text

PLANTED = {
    "api key of ours": new_key_text(),
    "webhook secret": f"whsec_{secrets.token_hex(22)}",
    "cloud key": "AKIA" + "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") for _ in range(16)),
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "password in an address": f"redis://user:{secrets.token_hex(8)}@redis.example:6379/0",
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_secret_is_found_wherever_it_lies(tmp_path: Path, what: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text(f"A page.\n\nvalue = '{PLANTED[what]}'\n")
    (tmp_path / "clean.py").write_text("KEY_CHARS = 64\n")
    found = list(find_secrets(tmp_path))
    assert {(secret["filename"], secret["line_number"]) for secret in found} == {("docs/page.md", 3)}


def test_a_secret_fails_the_check_and_is_not_printed(tmp_path: Path) -> None:
    key = PLANTED["api key of ours"]
    (tmp_path / "settings.py").write_text(f"KEY = '{key}'\n")
    command = [sys.executable, "-m", "checks.secret_scan", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("settings.py:1: ")
    assert key not in done.stdout
    assert subprocess.run([*command, "--accept"], cwd=ROOT, capture_output=True, check=False).returncode == 0
    assert key not in (tmp_path / ".secrets.baseline").read_text()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout


def test_what_is_wrong_with_dependencies_is_named() -> None:
    rows = [Requirement(text) for text in ("one>=1", "two>=1,<2", "three", "four==4.*")]
    assert [line.split()[0] for line in unbounded(rows)] == ["one", "three"]
    assert [line.split()[0] for line in unexplained(rows, "| `one`, two | x |")] == ["three", "four"]
    lock = "one==0.9 \\\n    --hash=sha256:00\ntwo==1.5 ; python_version < '3.12'\ntwo==2.1\nfour==4.9\n"
    assert [line.split()[0] for line in unlocked(rows, lock)] == ["one>=1", "three"]
    (low,) = below_floor(
        {"pytest": ["9999", "a hole"], "not-installed-anywhere": ["1", "x"], "packaging": ["0.1", "x"]}
    )
    assert low.startswith("pytest ")
    assert "below 9999: a hole" in low


def test_the_embedded_server_has_a_floor_that_its_binary_is_held_to() -> None:
    floors = json.loads((ROOT / "checks" / "floors.json").read_text("utf-8"))
    assert below_floor({SERVER: floors[SERVER]}) == []
    (low,) = below_floor({SERVER: ["9999", "a hole"]})
    assert low.startswith("valkey-server 9.")


def test_an_import_cycle_is_found_with_its_chain() -> None:
    graph = grimp.ImportGraph()
    for importer, imported in (("p.a", "p.b"), ("p.b", "p.c"), ("p.c", "p.a"), ("p.d", "p.a")):
        graph.add_import(importer=importer, imported=imported)
    assert find_cycles(graph) == [["p.a", "p.b", "p.c", "p.a"]]
    graph.remove_import(importer="p.c", imported="p.a")
    assert find_cycles(graph) == []


def test_retalking_core_has_no_import_cycle() -> None:
    assert find_cycles(grimp.build_graph("retalking_core", cache_dir=None)) == []


def lock_of_a_wheel(folder: Path, tag: str) -> Path:
    """A lock that asks for one package, which lies beside it as a wheel with this tag."""
    wheel = folder / f"thing-1.0-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        archive.writestr("thing-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr("thing-1.0.dist-info/RECORD", "")
    lock = folder / "lock.txt"
    lock.write_text(f"thing==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return lock


def test_a_lock_without_a_wheel_for_a_python_is_found(tmp_path: Path) -> None:
    lock = lock_of_a_wheel(tmp_path, "cp311-none-any")
    here = ("--no-index", "--find-links", str(tmp_path))
    assert resolve(lock, "3.11", *here) is None
    finding = resolve(lock, "3.12", *here)
    assert finding is not None
    assert finding.answered
    assert "thing" in finding.message
    assert str(finding).startswith("locks/lock.txt on Python 3.12: does not install from wheels")


def test_no_registry_is_no_answer_and_no_success(tmp_path: Path) -> None:
    finding = resolve(lock_of_a_wheel(tmp_path, "py3-none-any"), "3.11", "--offline", "--no-cache")
    assert finding is not None
    assert not finding.answered
    assert "NOT checked" in str(finding)


def test_the_workflow_tests_the_pythons_of_the_locks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["requires-python"] == f">={PYTHONS[0]}"
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))["jobs"]
    tested, shown = (jobs[name]["strategy"]["matrix"]["python"] for name in ("test", "demo"))
    assert [*tested, *shown] == list(PYTHONS)
