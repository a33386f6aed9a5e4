"""The readers of `deploy/try-images`. The trial itself needs root, Debian's archive and minutes: `make try-images`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploy.trial.building import Builder, BuildError, release_of
from deploy.trial.compose import MissingVariableError, Service, Volume, interpolate, read_services
from deploy.trial.dockerfile import DockerfileError, ImageConfig, read_stages
from deploy.trial.fresh import packages_of
from deploy.trial.secrets import make_variables
from deploy.trial.stand_ins import stand_in_for

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, text: str) -> Path:
    path = folder / "Dockerfile"
    path.write_text(text)
    return path


def test_a_dockerfile_is_read_as_written(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "# syntax=x\nARG BASE=debian:trixie-slim\nFROM ${BASE} AS build\nRUN one \\\n  # between\n  && two\n"
        'FROM build\nENV PATH=/opt/bin:$PATH \\\n    A=1\nUSER 7\nCMD ["run", "it"]\n',
    )
    build, final = read_stages(path)
    assert (build.name, build.base) == ("build", "debian:trixie-slim")
    assert [(step.word, step.text) for step in build.steps] == [("RUN", "one && two")]
    config = ImageConfig()
    for step in final.steps:
        config.apply(step)
    assert config.env["PATH"].startswith("/opt/bin:/usr/local/sbin:")
    assert (config.env["A"], config.user, config.command) == ("1", "7", ["run", "it"])


def test_an_unknown_instruction_is_named(tmp_path: Path) -> None:
    with pytest.raises(DockerfileError, match="HEALTHCHECK"):
        read_stages(write(tmp_path, "FROM a\nHEALTHCHECK NONE\n"))


@pytest.mark.parametrize("name", ["Dockerfile.api", "Dockerfile.gpu"])
def test_our_images_can_be_tried(name: str) -> None:
    stages = read_stages(ROOT / name)
    assert [release_of(stage.base) for stage in stages] == ["trixie", "trixie"]
    config = ImageConfig()
    for step in stages[-1].steps:
        config.apply(step)
    assert config.user == "10001"
    assert config.command


def test_an_unknown_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="alpine"):
        Builder(tmp_path, ROOT).base("alpine:3")


def test_variables_are_filled_in_as_compose_does() -> None:
    values = {"A": "1", "EMPTY": ""}
    assert interpolate(["$$A ${A} ${EMPTY:-x} ${NONE}"], values) == ["$A 1 x "]
    with pytest.raises(MissingVariableError, match="set it"):
        interpolate({"k": "${EMPTY:?set it}"}, values)


def test_the_compose_file_is_read_whole() -> None:
    services = read_services(ROOT / "docker-compose.yml", make_variables())
    assert set(services) == {"api", "gpu-worker", "webhook-worker", "redis", "s3", "bucket"}
    worker = services["gpu-worker"]
    assert worker.dockerfile == "Dockerfile.gpu"
    assert worker.volumes == [
        Volume("models", "/models", True),
        Volume("scratch", "/scratch", False),
        Volume("compiled", "/compiled", False),
    ]
    assert worker.health_test[:2] == ["python", "-c"]
    assert "${" not in "".join(worker.environment.values())
    assert services["redis"].health_test[:2] == ["sh", "-c"]
    assert "$REDISCLI_AUTH" in services["redis"].command[2]
    assert services["api"].depends_on == {"redis": "service_healthy", "bucket": "service_completed_successfully"}


def test_an_image_without_a_stand_in_is_named(tmp_path: Path) -> None:
    service = Service("db", "postgres:18", None, {}, [], [], None, True, [], [], {}, 10.0)
    with pytest.raises(BuildError, match="postgres:18"):
        stand_in_for(service, Builder(tmp_path, ROOT))


def test_the_fresh_root_gets_what_the_readme_names() -> None:
    packages = packages_of((ROOT / "README.md").read_text("utf-8"))
    assert {"make", "python3-venv"} <= set(packages)
    with pytest.raises(BuildError, match=r"README\.md"):
        packages_of("Nothing is named here.")


def test_every_image_from_outside_is_pinned_by_digest() -> None:
    compose = [service.image for service in read_services(ROOT / "docker-compose.yml", make_variables()).values()]
    bases = [stage.base for name in ("Dockerfile.api", "Dockerfile.gpu") for stage in read_stages(ROOT / name)]
    manifests = "\n".join(path.read_text("utf-8") for path in (ROOT / "deploy" / "kubernetes").glob("*.yaml"))
    images = {*compose, *bases, *re.findall(r"^\s*(?:- )?image: (\S+)", manifests, re.MULTILINE)}
    outside = {image for image in images if not image.startswith("retalking-")}
    assert all(re.fullmatch(r"[a-z/]+:[a-z0-9.-]+@sha256:[0-9a-f]{64}", image) for image in outside), outside
    # The same Redis everywhere, and one base for both images
    assert sorted(image.partition(":")[0] for image in outside) == ["chrislusf/seaweedfs", "debian", "redis"]
