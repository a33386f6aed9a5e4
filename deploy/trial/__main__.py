"""Entry of `deploy/try-images`, which gives it namespaces of its own first. Leaves with 1 when anything is wrong."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from deploy.trial.building import Builder, BuildError, Image
from deploy.trial.rehearsal import Rehearsal, TrialError
from deploy.trial.secrets import make_variables

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = ("Dockerfile.api", "Dockerfile.gpu")


def main() -> int:
    asked = _arguments()
    print("No Docker is used: each image is an overlay on a clean Debian root made by debootstrap, each service a")
    print("process in that root with the compose file's user, environment, mounts, read-only root and no capabilities.")
    builder = Builder(asked.work.resolve(), ROOT)
    try:
        images = {name: builder.find(name) if asked.reuse else _build(builder, name) for name in DOCKERFILES}
        with Rehearsal(ROOT / "docker-compose.yml", make_variables(), images, builder, asked.work.resolve()) as stage:
            stage.run()
    except (BuildError, TrialError, subprocess.TimeoutExpired) as fault:
        print(f"\nFAILED: {fault}", file=sys.stderr)
        return 1
    print("\nEverything that was tried works.")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="deploy/try-images", description=sys.modules["deploy.trial"].__doc__)
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("/var/tmp/retalking-trial"),
        help="roots and images; about 14 GB (%(default)s)",
    )
    parser.add_argument("--reuse", action="store_true", help="take the images that the last run built")
    return parser.parse_args()


def _build(builder: Builder, dockerfile: str) -> Image:
    print(f"\n{dockerfile}", flush=True)
    image = builder.build(dockerfile)
    print(f"  {image.size_bytes() / 1e9:6.2f} GB above the base image", flush=True)
    return image


if __name__ == "__main__":
    sys.exit(main())
