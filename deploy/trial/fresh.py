"""Entry of `deploy/try-fresh`: the README's first commands on a machine that has nothing but a minimal Debian.

The packages are those that README.md names, the files a fresh clone of the last commit, an unprivileged user.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from deploy.trial.building import RELEASES, Builder, BuildError, mount_overlay, run_in, shell_in
from deploy.trial.dockerfile import ImageConfig, Instruction

ROOT = Path(__file__).resolve().parents[2]
_HOME = "/home/newcomer"


def packages_of(readme: str) -> list[str]:
    """What README.md says a minimal system lacks: the packages of its first `apt-get install`."""
    found = re.search(r"`apt-get install ([^`]+)`", readme)
    if found is None:
        raise BuildError("README.md names no packages: `apt-get install ...` is missing")
    return found[1].split()


def main() -> int:
    asked = _arguments()
    try:
        _try(asked.release, asked.python, asked.target, asked.work.resolve())
    except BuildError as fault:
        print(f"\nFAILED: {fault}", file=sys.stderr)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="deploy/try-fresh", description=__doc__.partition(":")[2].strip())
    parser.add_argument("target", nargs="*", default=["demo", "test"], help="targets of the Makefile (demo test)")
    parser.add_argument("--release", choices=RELEASES.values(), default="trixie", help="of Debian (%(default)s)")
    parser.add_argument("--python", default="python3", help="Debian's package of the interpreter (%(default)s)")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("/var/tmp/retalking-trial"),
        help="roots; 0.5 GB for demo, 12 GB for test (%(default)s)",
    )
    return parser.parse_args()


def _try(release: str, python: str, targets: list[str], work: Path) -> None:
    """Raises BuildError when a target fails. The root is deleted in the end, the clean one below it kept."""
    image = next(name for name, known in RELEASES.items() if known == release)
    home = work / "fresh" / f"{release}-{python}"
    shutil.rmtree(home, ignore_errors=True)
    root = mount_overlay(home, lower=(Builder(work, ROOT).base(image),), upper=home / "layer")
    try:
        _prepare(root, python)
        for target in targets:
            _make(root, python, target)
    finally:
        subprocess.run(["umount", str(root)], check=True)
        shutil.rmtree(home)


def _prepare(root: Path, python: str) -> None:
    packages = [python, f"{python}-venv", *packages_of((ROOT / "README.md").read_text("utf-8"))]
    for script in (
        # A mirror of a rolling release may lag behind, and what it gave the root is as old
        "apt-get -o Acquire::Check-Valid-Until=false update && apt-get install --yes --no-install-recommends "
        + " ".join(packages),
        f"useradd --create-home --home-dir {_HOME} newcomer",
    ):
        run_in(root, ImageConfig(), Instruction("RUN", script))
    clone = root / _HOME.lstrip("/") / "retalking"
    # Root clones what may belong to another user, which git refuses unless it is told
    reading = f"git -c safe.directory={ROOT} -c safe.directory={ROOT}/.git upload-pack"
    subprocess.run(
        ["git", "clone", "--quiet", "--no-local", "--upload-pack", reading, str(ROOT), str(clone)], check=True
    )
    run_in(root, ImageConfig(), Instruction("RUN", f"chown --recursive newcomer: {_HOME}"))
    said = subprocess.run(
        ["chroot", str(root), python, "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    print(f"{root.parent.name}: {said}", flush=True)


def _make(root: Path, python: str, target: str) -> None:
    """The output goes where ours goes, as it comes: a test run takes minutes."""
    started = time.monotonic()
    command, env = shell_in(root, ImageConfig(), f"su newcomer -c 'cd ~/retalking && make PYTHON={python} {target}'")
    print(f"\nmake {target}", flush=True)
    code = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, check=False).returncode
    print(f"make {target}: status {code} after {time.monotonic() - started:.0f} s", flush=True)
    if code:
        raise BuildError(f"make {target} ended with {code}")


if __name__ == "__main__":
    sys.exit(main())
