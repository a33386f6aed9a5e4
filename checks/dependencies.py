"""The installed dependencies: `python -m checks.dependencies [--offline]`.

Without a network: the environment is consistent (`pip check`); every requirement of ours has an upper bound, a row in
docs/dependencies.md and a version in locks/all.txt; nothing is older than the floors of checks/floors.json, below which
a vulnerability is known that would matter here. The embedded server has a floor of its own: the version of the binary
counts, not that of the package that carries it, and a vulnerability service for Python packages does not know it. With
a network, pip-audit asks the vulnerability service about every package. No answer is reported, but is no failure: a
build must not depend on a service elsewhere. Exits with 1 when something is wrong.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from cli.stack.redis_server import RedisServerError, redis_server_binary, server_version

ROOT = Path(__file__).resolve().parents[1]
AUDIT_LIMIT_S = 120.0
SERVER = "valkey-server"


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    rows = [Requirement(row) for group in (project["dependencies"], *extras) for row in group]
    return [row for row in rows if canonicalize_name(row.name) != project["name"]]


def unbounded(rows: list[Requirement]) -> list[str]:
    """A range without an end lets tomorrow's release in unseen."""
    return [
        f"{row.name} has no upper bound: {row.specifier or 'any version'}"
        for row in rows
        if not any(rule.operator in ("<", "<=", "==", "~=") for rule in row.specifier)
    ]


def unexplained(rows: list[Requirement], page: str) -> list[str]:
    """Packages that the page does not name."""
    words = {canonicalize_name(word) for word in re.findall(r"[A-Za-z0-9][A-Za-z0-9._-]*", page)}
    return [
        f"{row.name} has no row in docs/dependencies.md" for row in rows if canonicalize_name(row.name) not in words
    ]


def unlocked(rows: list[Requirement], lock: str) -> list[str]:
    """Requirements that the lock does not meet: `make lock` was forgotten."""
    locked: dict[str, list[str]] = {}
    for name, release in re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^ \n]+)", lock, re.MULTILINE):
        locked.setdefault(canonicalize_name(name), []).append(release)
    return [
        f"{row.name}{row.specifier} is not in locks/all.txt: run `make lock`"
        for row in rows
        if not any(row.specifier.contains(release) for release in locked.get(canonicalize_name(row.name), []))
    ]


def below_floor(floors: dict[str, list[str]]) -> list[str]:
    found = []
    for name, (floor, reason) in floors.items():
        installed = installed_version(name)
        if installed is not None and Version(installed) < Version(floor):
            found.append(f"{name} {installed} is below {floor}: {reason}")
    return found


def installed_version(name: str) -> str | None:
    """Of a package, or of the embedded server by its own name; None where it is not installed."""
    try:
        return server_version(redis_server_binary()) if name == SERVER else version(name)
    except (PackageNotFoundError, RedisServerError):
        return None


def inconsistent() -> list[str]:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode else []


def audit() -> tuple[list[str], str]:
    """Known vulnerabilities, and what was looked at."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", "5"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=AUDIT_LIMIT_S, check=False)
        rows = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return [], "NOT asked about known vulnerabilities: no vulnerability service answers here"
    asked = [row for row in rows if "skip_reason" not in row]
    if not asked:
        return [], f"NOT asked about known vulnerabilities: the service here knows none of the {len(rows)} packages"
    found = [f"{row['name']} {row['version']}: {hole['id']}" for row in asked for hole in row["vulns"]]
    return found, f"asked about {len(asked)} of {len(rows)} packages"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--offline", action="store_true", help="ask no vulnerability service")
    asked = parser.parse_args()
    rows = requirements()
    floors = json.loads(Path(__file__).with_name("floors.json").read_text("utf-8"))
    page = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
    lock = (ROOT / "locks" / "all.txt").read_text("utf-8")
    wrong = [
        *inconsistent(),
        *unbounded(rows),
        *unexplained(rows, page),
        *unlocked(rows, lock),
        *below_floor(floors),
    ]
    print(f"Dependencies: {len(rows)} requirements, {len(floors)} floors")
    if not asked.offline:
        holes, said = audit()
        wrong += holes
        print(f"pip-audit: {said}")
    for line in wrong:
        print(f"  {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
