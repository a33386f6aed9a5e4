"""The README's first commands on a machine that has nothing but a minimal Debian: `deploy/try-fresh`.

The packages are those that README.md names, the files a fresh clone of the last commit, the user an unprivileged one.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from pathlib import Path

from deploy.trial.podman import ROOT, Podman, TrialError


def packages_of(readme: str) -> list[str]:
    """What README.md says a minimal system lacks: the packages of its first `apt-get install`."""
    found = re.search(r"`apt-get install ([^`]+)`", readme)
    if found is None:
        raise TrialError("README.md names no packages: `apt-get install ...` is missing")
    return found[1].split()


def try_fresh(podman: Podman, release: str, python: str, targets: list[str]) -> None:
    """Raises TrialError when a target fails."""
    packages = [python, f"{python}-venv", *packages_of((ROOT / "README.md").read_text("utf-8"))]
    with tempfile.TemporaryDirectory() as name:
        context = Path(name)
        subprocess.run(["git", "clone", "--quiet", "--no-local", str(ROOT), str(context / "retalking")], check=True)
        (context / "Dockerfile").write_text(
            "ARG BASE\nFROM ${BASE}\n"
            # The mirror of a rolling release may lag behind, and what it gave the root is as old.
            "RUN apt-get -o Acquire::Check-Valid-Until=false update"
            f" && apt-get install --yes --no-install-recommends {' '.join(packages)}"
            " && useradd --create-home newcomer\n"
            "COPY --chown=newcomer retalking /home/newcomer/retalking\n"
            "USER newcomer\nWORKDIR /home/newcomer/retalking\n",
            encoding="utf-8",
        )
        podman.build(context / "Dockerfile", context, "retalking-fresh", podman.base(release))
    version = podman.run("run", "--rm", "retalking-fresh", python, "--version").stdout.strip()
    print(f"{release}: {version}", flush=True)
    words = ["run", "--detach", "--init", "--network", "host", "--shm-size", "1g", *podman.package_sources()]
    container = podman.run(*words, "retalking-fresh", "sleep", "infinity").stdout.strip()
    try:
        for target in targets:
            started = time.monotonic()
            print(f"\nmake {target}", flush=True)
            done = podman.run("exec", container, "make", f"PYTHON={python}", target, check=False, shown=True)
            took = time.monotonic() - started
            print(f"make {target}: status {done.returncode} after {took:.0f} s", flush=True)
            if done.returncode:
                raise TrialError(f"make {target} ended with {done.returncode}")
    finally:
        podman.run("rm", "--force", "--time", "5", container)
