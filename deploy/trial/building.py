"""Builds an image as an overlay of folders: a clean Debian below, one layer per stage on top. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from deploy.trial.dockerfile import ImageConfig, Instruction, Stage, read_stages

# The official slim images are made from debootstrap's minimal variant as well.
RELEASES = {"debian:trixie-slim": "trixie", "debian:bookworm-slim": "bookworm", "debian:sid-slim": "sid"}
# How this machine reaches its package sources; nothing else of its environment gets into a build.
_PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "PIP_CERT", "PIP_INDEX_URL", "PIP_DEFAULT_TIMEOUT")
_SHADOWED = ("etc/resolv.conf", "etc/hosts")


class BuildError(Exception):
    """A step of a build failed; the message holds the instruction and the end of what it said."""


@dataclass(frozen=True)
class Image:
    """layers: folders from the top one down to the base, as overlayfs takes them."""

    name: str
    layers: tuple[Path, ...]
    config: ImageConfig

    def size_bytes(self) -> int:
        """Of the files above the base."""
        found = subprocess.run(
            ["du", "--bytes", "--summarize", *self.layers[:-1]], capture_output=True, text=True, check=True
        )
        return sum(int(line.split()[0]) for line in found.stdout.splitlines())


class Builder:
    """folder: where roots and layers are kept. context: the folder that COPY reads."""

    def __init__(self, folder: Path, context: Path) -> None:
        self._folder = folder
        self._context = context

    def base(self, image: str) -> Path:
        """A clean root that stands for the image. One that is there already is used again."""
        release = release_of(image)
        root = self._folder / "bases" / release
        if not root.exists():
            unfinished = root.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            _must(["debootstrap", "--variant=minbase", release, str(unfinished)], "debootstrap")
            unfinished.rename(root)
        return root

    def build(self, dockerfile: str) -> Image:
        """Every instruction of every stage, in order. Raises BuildError."""
        home = self._folder / "images" / dockerfile
        shutil.rmtree(home, ignore_errors=True)
        roots: dict[str, Path] = {}
        config, layers = ImageConfig(), ()
        for number, stage in enumerate(read_stages(self._context / dockerfile)):
            base, upper = self.base(stage.base), home / f"{number}" / "layer"
            root = mount_overlay(home / f"{number}", lower=(base,), upper=upper)
            config, layers = self._run_stage(stage, root, roots), (upper, base)
            roots[stage.name] = root
        for root in roots.values():
            _must(["umount", str(root)], "umount")
        self._drop_stages_but(layers[0], home)
        return Image(dockerfile, layers, config)

    def find(self, dockerfile: str) -> Image:
        """The image of an earlier build. Raises BuildError when there is none."""
        stages = read_stages(self._context / dockerfile)
        layer = self._folder / "images" / dockerfile / f"{len(stages) - 1}" / "layer"
        if not layer.exists():
            raise BuildError(f"{dockerfile} was not built in {self._folder}: leave --reuse out")
        config = ImageConfig()
        for step in stages[-1].steps:
            config.apply(step)
        return Image(dockerfile, (layer, self.base(stages[-1].base)), config)

    def with_packages(self, name: str, base: str, packages: list[str]) -> Image:
        """The base with Debian packages and a folder /data: stands for an image that can not be pulled."""
        home = self._folder / "images" / name.replace("/", "_").replace(":", "_")
        shutil.rmtree(home, ignore_errors=True)
        upper, lower = home / "layer", self.base(base)
        root = mount_overlay(home, lower=(lower,), upper=upper)
        script = "mkdir --parents /data"
        if packages:
            script += f" && apt-get update && apt-get install --yes --no-install-recommends {' '.join(packages)}"
        run_in(root, ImageConfig(), Instruction("RUN", script))
        _must(["umount", str(root)], "umount")
        return Image(name, (upper, lower), ImageConfig())

    def _run_stage(self, stage: Stage, root: Path, roots: dict[str, Path]) -> ImageConfig:
        config = ImageConfig()
        for step in stage.steps:
            started = time.monotonic()
            config.apply(step)
            if step.word == "RUN":
                run_in(root, config, step)
            elif step.word == "COPY":
                self._copy(step, root, config, roots)
            elif step.word == "WORKDIR":
                (root / step.text.lstrip("/")).mkdir(parents=True, exist_ok=True)
            print(f"  {time.monotonic() - started:6.1f} s  {step.word} {step.text[:90]}", flush=True)
        return config

    def _copy(self, step: Instruction, root: Path, config: ImageConfig, roots: dict[str, Path]) -> None:
        flags = [word for word in step.words() if word.startswith("--")]
        *sources, target = (word for word in step.words() if not word.startswith("--"))
        origin = roots[flags[0].removeprefix("--from=")] if flags else self._context
        place = root / os.path.normpath(os.path.join(config.workdir, target)).lstrip("/")
        for source in sources:
            path = origin / source.lstrip("/")
            if not path.exists():
                raise BuildError(f"COPY {step.text}: {source} is not there")
            into = place / path.name if target.endswith("/") else place
            into.parent.mkdir(parents=True, exist_ok=True)
            # A folder is copied as its contents; links and owners stay as they are
            _must(["cp", "--archive", "--no-target-directory", str(path), str(into)], f"COPY {step.text}")

    def _drop_stages_but(self, kept: Path, home: Path) -> None:
        """The layers of build stages are as large as the image: gone once it is made."""
        for stage in home.iterdir():
            if stage != kept.parent:
                shutil.rmtree(stage)


def release_of(image: str) -> str:
    """Debian's name for what is in the image. A digest is left out: debootstrap makes the release of today."""
    name = image.partition("@")[0]
    if name not in RELEASES:
        raise BuildError(f"no clean root can be made for {image}; known: {', '.join(RELEASES)}")
    return RELEASES[name]


def mount_overlay(home: Path, lower: tuple[Path, ...], upper: Path | None) -> Path:
    """The mounted root under `home`. Without `upper` it is read-only, as a container's is with read_only: true."""
    root, scratch = home / "root", home / "overlay-work"
    root.mkdir(parents=True, exist_ok=True)
    options = "lowerdir=" + ":".join(map(str, lower))
    if upper is not None:
        upper.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(exist_ok=True)
        options += f",upperdir={upper},workdir={scratch}"
    _must(["mount", "-t", "overlay", "overlay", "-o", options, str(root)], "mount")
    return root


def run_in(root: Path, config: ImageConfig, step: Instruction) -> None:
    """One RUN line by the root's own /bin/sh. Raises BuildError with the end of its output."""
    command, env = shell_in(root, config, step.text)
    _must(command, f"RUN {step.text}", env)


def shell_in(root: Path, config: ImageConfig, script: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment that run a script in the root, with the kernel's file systems that a container has and
    this machine's way to its package sources."""
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    binds = {f"/{name}": f"/{name}" for name in _SHADOWED}
    if "PIP_CERT" in passed:
        # At a place of its own: the package ca-certificates must be able to replace the usual one
        binds[passed["PIP_CERT"]] = passed["PIP_CERT"] = "/run/trial-certificates.pem"
    mounts = [
        f"mount -t proc proc {root}/proc",
        f"mount -t sysfs -o ro sysfs {root}/sys",
        f"mount -t tmpfs tmpfs {root}/run",
        f"mount -t tmpfs -o mode=1777 tmpfs {root}/dev/shm",
        f"mount -t devpts -o newinstance,ptmxmode=0666 devpts {root}/dev/pts",
    ]
    for here, there in binds.items():
        mounts += [f"[ -e {root}{there} ] || : > {root}{there}", f"mount --bind -o ro {here} {root}{there}"]
    inside = f'exec chroot {root} /usr/bin/env -C {config.workdir} /bin/sh -c "$0"'
    command = ["unshare", "--mount", "sh", "-c", "; ".join(["set -e", *mounts, inside]), script]
    return command, config.env | passed | {"HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"}


def _must(command: list[str], what: str, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr)[-3000:]
        raise BuildError(f"{what}\nexit status {done.returncode}\n{said}")
