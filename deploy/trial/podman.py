"""Podman and podman-compose: base images made by debootstrap, builds, services, commands in containers."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
PROJECT = "retalking-trial"
# The proxies of this machine reach a build by themselves; pip's certificates need a mount and a variable.
_CERTIFICATES = "/run/trial-certificates.pem"
_PASSED_ON = ("PIP_INDEX_URL", "PIP_DEFAULT_TIMEOUT")


class TrialError(Exception):
    """A step failed; the message holds the command and the end of its output."""


class Podman:
    """work: folder of all images, containers and volumes of the trial; no other podman of the machine sees them."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._store = ["--root", str(work / "storage"), "--runroot", str(work / "run")]
        work.mkdir(parents=True, exist_ok=True)
        config = work / "containers.conf"
        # runc with cgroupfs also works where no systemd runs and cgroups are of version 1. A process without
        # CAP_SYS_RESOURCE cannot raise limits above its own.
        limits = [
            f"{name}={limit}:{limit}"
            for name, kind in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC))
            for limit in (min(8192, resource.getrlimit(kind)[1]),)
        ]
        config.write_text(
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            '[network]\nnetwork_backend = "netavark"\n'
            f'[containers]\nlog_driver = "k8s-file"\ndefault_ulimits = {json.dumps(limits)}\n',
            encoding="utf-8",
        )
        self._env = os.environ | {"CONTAINERS_CONF": str(config)}

    def run(self, *words: str, check: bool = True, shown: bool = False) -> subprocess.CompletedProcess[str]:
        """One podman command. shown: its output goes to ours as it comes. Raises TrialError when `check`."""
        return self._run(["podman", *self._store, *words], check, shown)

    def compose(self, *words: str, variables: dict[str, str]) -> None:
        """One podman-compose command over docker-compose.yml with the trial's changes on top. Raises TrialError."""
        paths = ROOT / "docker-compose.yml", HERE / "no-gpu.yaml", HERE / "compose.yaml"
        files = [word for path in paths for word in ("-f", str(path))]
        args = ["-p", PROJECT, "--in-pod", "false", f"--podman-args={' '.join(self._store)}"]
        self._run([sys.executable, "-m", "podman_compose", *files, *args, *words], True, False, variables)

    def base(self, release: str) -> str:
        """The name of an image of a minimal Debian, made by debootstrap unless it is there already."""
        image = f"localhost/debian-{release}"
        if self.run("image", "exists", image, check=False).returncode:
            root = self._work / release
            shutil.rmtree(root, ignore_errors=True)
            self._run(["debootstrap", "--variant=minbase", release, str(root)], True, False)
            archive = self._work / f"{release}.tar"
            self._run(["tar", "--directory", str(root), "--create", "--file", str(archive), "."], True, False)
            self.run("import", str(archive), image)
            shutil.rmtree(root)
            archive.unlink()
        return image

    def build(self, dockerfile: Path, context: Path, image: str, base: str) -> float:
        """Returns the size of the image in bytes, the base included. Raises TrialError."""
        # chroot: the other kinds of isolation set limits that a process without CAP_SYS_RESOURCE may not set.
        args = ["--isolation", "chroot", "--network", "host", "--build-arg", f"BASE={base}", *self.package_sources()]
        self.run("build", *args, "--file", str(dockerfile), "--tag", image, str(context))
        return float(self.run("image", "inspect", "--format", "{{.Size}}", image).stdout)

    def package_sources(self) -> list[str]:
        """Arguments of build and run with which pip in there reaches the package index that it reaches here."""
        words = [f"--env={name}={os.environ[name]}" for name in _PASSED_ON if name in os.environ]
        if certificates := os.environ.get("PIP_CERT"):
            words += [f"--volume={certificates}:{_CERTIFICATES}:ro", f"--env=PIP_CERT={_CERTIFICATES}"]
        return words

    def _run(
        self, command: list[str], check: bool, shown: bool, variables: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        pipe = None if shown else subprocess.PIPE
        done = subprocess.run(
            command,
            env=self._env | (variables or {}),
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
            check=False,
        )
        if check and done.returncode:
            said = ((done.stdout or "") + (done.stderr or ""))[-3000:]
            raise TrialError(f"{' '.join(command)}\nexit status {done.returncode}\n{said}")
        return done
