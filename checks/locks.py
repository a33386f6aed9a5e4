"""The locks install from wheels on every Python that we support: `python -m checks.locks`.

Resolves each lock for each Python as an installation would, and installs nothing: an installation checks the digests.
Only the package registry knows for which Pythons there are wheels. Without its answer nothing is checked: this is
printed, and is no success. Exits with 1 when a lock has no wheels for a Python, with 2 when no registry answers.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
LOCKS = ("all", "api", "embedded", "gpu")
# Its wheel holds nothing but a static binary, but asks for this Python; `make` overrules it.
RCLONE = ("rclone", "3.12")
LIMIT_S = 300.0
# What uv says when it knows the packages, and they do not fit.
REFUSED = re.compile(r"has no (usable )?wheels|we can conclude that your requirements", re.DOTALL)
OFFLINE = re.compile(r"network was disabled|Failed to fetch|error sending request", re.DOTALL)


@dataclass(frozen=True)
class Finding:
    """Of a lock on a Python. answered: whether a registry did, so that it is known to be wrong."""

    lock: str
    python: str
    answered: bool
    message: str

    def __str__(self) -> str:
        what = "does not install from wheels" if self.answered else "NOT checked, no package registry answers"
        return f"locks/{self.lock} on Python {self.python}: {what}\n{self.message}"


def resolve(lock: Path, python: str, *options: str) -> Finding | None:
    """None: it installs. options: of uv."""
    command = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--dry-run", "--quiet", "--no-deps"]
    command += ["--require-hashes", "--only-binary", ":all:", "--no-binary", "face-recognition-models"]
    with tempfile.TemporaryDirectory() as nowhere:
        command += ["--python-version", python, "--target", nowhere, "--requirement", str(lock), *options]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            return Finding(lock.name, python, answered=False, message=f"no answer within {LIMIT_S:.0f} s")
    if done.returncode == 0:
        return None
    answered = REFUSED.search(done.stderr) is not None and OFFLINE.search(done.stderr) is None
    return Finding(lock.name, python, answered, done.stderr.strip())


def pairs() -> Iterator[tuple[Path, str]]:
    """Every lock with every Python that it is for."""
    for name, python in [*((name, python) for name in LOCKS for python in PYTHONS), RCLONE]:
        yield ROOT / "locks" / f"{name}.txt", python


def main() -> int:
    checked, findings = 0, []
    for lock, python in pairs():
        checked += 1
        if (finding := resolve(lock, python)) is not None:
            findings.append(finding)
            print(finding)
            if not finding.answered:
                return 2
    print(f"Locks: {checked - len(findings)} of {checked} combinations with Python install from wheels")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
