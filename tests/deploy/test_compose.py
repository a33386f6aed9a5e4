"""What docker-compose.yml and the Dockerfiles promise. No images are built here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from jobs.settings import Settings
from tests.services import S3Endpoint

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "torchvision", "numpy", "av", "opencv-python", "opencv-python-headless", "dlib-bin", "scikit-image"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    return compose["services"]


def instructions(name: str) -> list[str]:
    """The instructions of a Dockerfile, continuation lines joined, comments left out."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    return [line.strip() for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def installed_packages(name: str) -> set[str]:
    """Every distribution that the lock of a Dockerfile's install names."""
    (lock,) = re.findall(r"--require-hashes .*--requirement (locks/\w+\.txt)", "\n".join(instructions(name)))
    return set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / lock).read_text(), re.MULTILINE))


def test_every_part_is_there(services: dict[str, Any]) -> None:
    always = {name for name, service in services.items() if "profiles" not in service}
    assert always == {"api", "gpu-worker", "webhook-worker", "redis", "s3", "bucket"}


def test_the_schema_of_compose_knows_every_field(compose: dict[str, Any]) -> None:
    """The schema that the Compose project publishes, as the package check-jsonschema carries it."""
    folder = resources.files("check_jsonschema.builtin_schemas.vendor")
    schema = json.loads((folder / "compose-spec.json").read_text())
    jsonschema.validate(compose, schema)
    slip = compose | {"services": {"api": compose["services"]["api"] | {"read-only": True}}}
    with pytest.raises(jsonschema.ValidationError, match="read-only"):
        jsonschema.validate(slip, schema)


def test_further_workers_differ_in_their_gpu_alone(services: dict[str, Any]) -> None:
    first = {key: value for key, value in services["gpu-worker"].items() if key != "deploy"}
    further = {name: service for name, service in services.items() if "profiles" in service}
    assert set(further) == {"gpu-worker-1", "gpu-worker-2", "gpu-worker-3"}
    for name, service in further.items():
        number = name.removeprefix("gpu-worker-")
        assert service["profiles"] == [f"gpu{number}"]
        assert service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] == [number]
        assert {key: value for key, value in service.items() if key not in ("deploy", "profiles")} == first


@pytest.mark.parametrize("name", ["api", "gpu-worker", "gpu-worker-1", "webhook-worker", "redis", "s3"])
def test_each_service_is_watched_and_confined(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert service["restart"] == "unless-stopped"
    assert "/tmp" in service["tmpfs"]
    assert re.search(r"\d+[mg]\b", service["mem_limit"]), "one that grows costs itself, not the machine"


def test_redis_keeps_what_it_was_told(services: dict[str, Any]) -> None:
    script = services["redis"]["command"][2]
    for line in ("appendonly yes", "appendfsync always", "maxmemory-policy noeviction", "requirepass $$REDISCLI_AUTH"):
        assert line in script.splitlines()
    assert "ports" not in services["redis"], "only the service itself talks to Redis"
    assert any(volume.endswith(":/data") for volume in services["redis"]["volumes"])


def test_the_bucket_is_made_once_and_for_all(services: dict[str, Any], s3: S3Endpoint) -> None:
    """The script of the service `bucket`, on a real endpoint, as often as compose is started."""
    script = services["bucket"]["command"][2]
    assert services["bucket"]["command"][:2] == ["python", "-c"]
    keys = {"AWS_ACCESS_KEY_ID": s3.access_key_id, "AWS_SECRET_ACCESS_KEY": s3.secret_access_key}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", script.replace("http://s3:8333", s3.endpoint)],
            env=os.environ | keys,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "retalking" in {bucket["Name"] for bucket in s3.client().list_buckets()["Buckets"]}


def test_one_gpu_a_worker(services: dict[str, Any]) -> None:
    taken: list[str] = []
    for name, service in services.items():
        for device in service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", []):
            assert name.startswith("gpu-worker")
            assert device["capabilities"] == ["gpu"]
            assert len(device["device_ids"]) == 1
            taken += device["device_ids"]
    assert len(taken) == len(set(taken)) >= 1
    assert services["gpu-worker"]["volumes"][0] == "models:/models:ro"


def test_only_known_settings_are_set(services: dict[str, Any]) -> None:
    known = {f"RETALKING_{name.upper()}" for name in Settings.model_fields}
    for service in services.values():
        assert {name for name in service["environment"] if name.startswith("RETALKING_")} <= known
    example = re.findall(r"^(RETALKING_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert set(example) <= known
    for dockerfile in ("Dockerfile.api", "Dockerfile.gpu"):
        assert set(re.findall(r"RETALKING_\w+(?==)", (ROOT / dockerfile).read_text())) <= known


def test_every_variable_is_in_the_example() -> None:
    compose, example = (ROOT / "docker-compose.yml").read_text(), (ROOT / ".env.example").read_text()
    offered = dict(re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE))
    required = set(re.findall(r"(?<!\$)\$\{(\w+):\?", compose))
    with_default = set(re.findall(r"(?<!\$)\$\{(\w+):-", compose))
    assert required == {"REDIS_PASSWORD", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"} | {
        "RETALKING_LINK_SECRET",
        "RETALKING_WEBHOOK_SECRET",
    }
    assert all(offered[name] == "" for name in required), "no default secret that someone could forget to change"
    assert set(offered) - {"COMPOSE_PROFILES"} <= required | with_default


def test_the_api_image_brings_no_media_library() -> None:
    names = installed_packages("Dockerfile.api")
    # packaging: kombu's Redis transport imports it, and only its extra says so.
    assert {"fastapi", "celery", "httpx", "boto3", "uvicorn", "packaging"} <= names
    assert not names & HEAVY


def test_the_gpu_image_brings_the_engine_and_the_fetcher() -> None:
    names = installed_packages("Dockerfile.gpu")
    assert {"torch", "av", "dlib-bin", "httpx", "celery"} <= names


@pytest.mark.parametrize("name", ["Dockerfile.api", "Dockerfile.gpu"])
def test_images_run_as_nobody_special_and_compile_nothing(name: str) -> None:
    lines = instructions(name)
    users = [line for line in lines if line.startswith("USER ")]
    assert users == ["USER 10001"]
    last_root = max(index for index, line in enumerate(lines) if line.startswith("RUN "))
    assert lines.index("USER 10001") > last_root
    installs = [line for line in lines if "pip install" in line]
    assert all(
        "--only-binary :all:" in line and "--require-hashes" in line for line in installs if " . " not in f"{line} "
    )
    assert sum("--no-deps ." in line for line in installs) == 1
    assert not any(line.startswith(("COPY .env", "COPY . ", "ADD ")) for line in lines)


def test_models_are_a_volume_of_the_gpu_image() -> None:
    volume = next(line for line in instructions("Dockerfile.gpu") if line.startswith("VOLUME"))
    assert "/models" in volume


def test_the_build_sees_only_the_sources() -> None:
    rules = (ROOT / ".dockerignore").read_text().split()
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        word
        for name in ("Dockerfile.api", "Dockerfile.gpu")
        for line in instructions(name)
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert {path.split("/")[0] for path in copied} == allowed
    assert all((ROOT / path).exists() for path in copied)
