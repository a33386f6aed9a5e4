"""Runs one compose service from an image: its root, its user, its mounts, no capabilities. Needs root."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from deploy.trial.building import Image, mount_overlay
from deploy.trial.compose import Service, Volume

# What a container runtime sets up besides: the devices that every container has.
_DEVICES = ("null", "zero", "full", "random", "urandom")
_TMPFS = "noexec,nosuid,nodev,mode=1777"


@dataclass(frozen=True)
class Places:
    """runs: roots and logs of the containers. volumes: the named volumes. hosts: the file that names the services."""

    runs: Path
    volumes: Path
    hosts: Path


class Container:
    """A service whose root is mounted. Commands run in it as its own process does."""

    def __init__(self, service: Service, image: Image, places: Places) -> None:
        self.service = service
        self._image = image
        self._home = places.runs / service.name
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        upper = None if service.read_only else self._home / "changes"
        self._root = mount_overlay(self._home, lower=image.layers, upper=upper)
        self._user, self._group = self._ids(service.user or image.config.user)
        self._mount_inside(places)

    def start(self) -> None:
        self._log = self.log_path.open("wb")
        self._process = subprocess.Popen(
            self._confined(self.service.command or self._image.config.command),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def run(self, command: list[str], limit_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """A further command in the container, as `docker compose exec` runs it."""
        return subprocess.run(
            self._confined(command),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )

    def is_healthy(self) -> bool:
        """What compose asks. False also while the process is not there."""
        return self.exit_code() is None and self.run(self.service.health_test).returncode == 0

    def exit_code(self) -> int | None:
        """None while it runs."""
        if self._process is None:
            raise RuntimeError(f"{self.service.name} was not started")
        return self._process.poll()

    def wait(self, limit_s: float) -> int:
        """Its exit code; subprocess.TimeoutExpired after the limit."""
        if self._process is None:
            raise RuntimeError(f"{self.service.name} was not started")
        return self._process.wait(limit_s)

    def stop(self) -> int:
        """SIGTERM, and its exit code; subprocess.TimeoutExpired when it outlives its grace period, as compose kills it
        then."""
        if self._process is None:
            raise RuntimeError(f"{self.service.name} was not started")
        self._process.terminate()
        return self._process.wait(self.service.stop_grace_s)

    def kill(self) -> None:
        """For the end of the trial, whatever happened in it."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def log_path(self) -> Path:
        return self._home / "log"

    def log_tail(self, size: int = 3000) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")[-size:]

    def _mount_inside(self, places: Places) -> None:
        self._mount("-t", "proc", "-o", "nosuid,nodev,noexec", "proc", at="/proc")
        self._mount("-t", "tmpfs", "-o", "nosuid,mode=755", "tmpfs", at="/dev")
        for device in _DEVICES:
            (self._root / "dev" / device).touch()
            self._mount("--bind", f"/dev/{device}", at=f"/dev/{device}")
        (self._root / "dev" / "shm").mkdir()
        for target in ["/dev/shm", *self.service.tmpfs]:
            self._mount("-t", "tmpfs", "-o", _TMPFS, "tmpfs", at=target)
        self._mount("--bind", "-o", "ro", str(places.hosts), at="/etc/hosts")
        for volume in self.service.volumes:
            self._mount_volume(volume, places.volumes / volume.name)

    def _mount_volume(self, volume: Volume, folder: Path) -> None:
        if not folder.exists():
            # A new named volume takes owner and rights of the folder that the image has in its place
            folder.mkdir(parents=True)
            there = self._root / volume.target.lstrip("/")
            owner = there.stat() if there.exists() else None
            folder.chmod(owner.st_mode & 0o777 if owner else 0o700)
            if owner and owner.st_uid:
                _must("chown", f"{owner.st_uid}:{owner.st_gid}", str(folder))
            else:
                _must("chown", f"{self._user}:{self._group}", str(folder))
        self._mount("--bind", str(folder), at=volume.target)
        if volume.read_only:
            self._mount("-o", "remount,bind,ro", at=volume.target)

    def _mount(self, *words: str, at: str) -> None:
        target = self._root / at.lstrip("/")
        # A runtime makes missing mount points before the root turns read-only; an overlay without a layer can not
        if not target.exists() and not self.service.read_only:
            target.mkdir(parents=True)
        _must("mount", *words, str(target))

    def _ids(self, user: str) -> tuple[str, str]:
        """User and group number; a bare user belongs to the group that the image's /etc/passwd says."""
        if ":" in user:
            number, _, group = user.partition(":")
            return number, group
        rows = (line.split(":") for line in (self._root / "etc/passwd").read_text().splitlines())
        return user, next((row[3] for row in rows if row[2] == user), "0")

    def _environment(self) -> dict[str, str]:
        return self._image.config.env | {"HOME": "/"} | self.service.environment

    def _confined(self, command: list[str]) -> list[str]:
        """An own host name, the root, the user, no capabilities and no way to gain any; then the command."""
        drop = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--clear-groups"]
        user = [f"--reuid={self._user}", f"--regid={self._group}"]
        enter = ["/usr/sbin/chroot", str(self._root), "/usr/bin/setpriv", *drop, *user]
        named = ["/usr/bin/unshare", "--uts", "/bin/sh", "-c", '/bin/hostname "$0" && exec "$@"', self.service.name]
        return [*named, *enter, "/usr/bin/env", "-C", self._image.config.workdir, *command]


def _must(*command: str) -> None:
    subprocess.run(command, check=True)
