"""`python -m deploy.trial images|fresh`: exits with 1 when anything is wrong."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import deploy.trial
from deploy.trial.podman import Podman, TrialError


def main() -> int:
    asked = _arguments()
    if asked.trial in ("variables", "inputs"):
        return _prepare(asked)
    podman = Podman(asked.work.resolve())
    try:
        if asked.trial == "fresh":
            # Here, since the image trial needs packages that a fresh machine lacks.
            from deploy.trial.fresh import try_fresh

            try_fresh(podman, asked.release, asked.python, asked.target)
        else:
            from deploy.trial.images import try_images

            try_images(podman, asked.reuse)
    except (TrialError, subprocess.TimeoutExpired) as fault:
        print(f"\nFAILED: {fault}", file=sys.stderr)
        return 1
    print("\nEverything that was tried works.")
    return 0


def _prepare(asked: argparse.Namespace) -> int:
    """The parts that a shell script needs."""
    from deploy.trial.images import make_variables, write_inputs

    if asked.trial == "variables":
        print("\n".join(f"{name}={value}" for name, value in make_variables().items()))
    else:
        write_inputs(asked.folder)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="deploy/trial", description=deploy.trial.__doc__)
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("/var/tmp/retalking-trial"),
        help="images and containers; 0.5 GB for `make demo`, about 14 GB for the rest (%(default)s)",
    )
    trials = parser.add_subparsers(dest="trial", required=True)
    images = trials.add_parser("images", help="both images, the compose file and a job")
    images.add_argument("--reuse", action="store_true", help="take the images that the last run built")
    fresh = trials.add_parser("fresh", help="the README's first commands on a minimal Debian")
    fresh.add_argument("target", nargs="*", default=["demo", "test"], help="targets of the Makefile (demo test)")
    fresh.add_argument("--release", default="trixie", help="of Debian (%(default)s)")
    fresh.add_argument("--python", default="python3", help="Debian's package of the interpreter (%(default)s)")
    trials.add_parser("variables", help="print fresh secrets as lines of an environment file")
    inputs = trials.add_parser("inputs", help="write a picture and speech for a job")
    inputs.add_argument("folder", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
