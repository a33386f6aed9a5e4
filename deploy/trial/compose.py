"""Reads docker-compose.yml as compose does: anchors and merges by the YAML reader, then `${...}` from the .env file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?::(?P<rule>[-?])(?P<rest>[^}]*))?\})")


class MissingVariableError(Exception):
    """A variable that compose requires is not in the environment; the message is the one of the compose file."""


@dataclass(frozen=True)
class Volume:
    """name: of the named volume. target: where it lies in the container."""

    name: str
    target: str
    read_only: bool


@dataclass(frozen=True)
class Service:
    """One service, interpolated. command and health_test are argument lists; an empty command is the image's own."""

    name: str
    image: str
    dockerfile: str | None
    environment: dict[str, str]
    command: list[str]
    health_test: list[str]
    user: str | None
    read_only: bool
    tmpfs: list[str]
    volumes: list[Volume]
    depends_on: dict[str, str]
    stop_grace_s: float


def read_services(path: Path, variables: dict[str, str]) -> dict[str, Service]:
    """The services that start without a profile, by name. Raises MissingVariableError."""
    document = interpolate(yaml.safe_load(path.read_text(encoding="utf-8")), variables)
    return {name: _service(name, raw) for name, raw in document["services"].items() if "profiles" not in raw}


def interpolate(value: Any, variables: dict[str, str]) -> Any:
    """`$$`, `${A}`, `${A:-default}` and `${A:?message}` in every string of the document."""
    if isinstance(value, dict):
        return {key: interpolate(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [interpolate(inner, variables) for inner in value]
    return _VARIABLE.sub(lambda found: _value_of(found, variables), value) if isinstance(value, str) else value


def _value_of(found: re.Match[str], variables: dict[str, str]) -> str:
    name = found["name"]
    if name is None:
        return "$"
    value = variables.get(name, "")
    if value or found["rule"] is None:
        return value
    if found["rule"] == "?":
        raise MissingVariableError(f"{name}: {found['rest']}")
    return found["rest"]


def _service(name: str, raw: dict[str, Any]) -> Service:
    if raw.get("cap_drop") != ["ALL"] or "no-new-privileges:true" not in raw.get("security_opt", []):
        raise ValueError(f"{name}: the trial runs services without capabilities only; the compose file grants some")
    return Service(
        name=name,
        image=raw["image"],
        dockerfile=raw.get("build", {}).get("dockerfile"),
        environment={key: str(value) for key, value in raw.get("environment", {}).items()},
        command=[str(word) for word in raw.get("command", [])],
        health_test=_health_test(raw.get("healthcheck", {}).get("test", [])),
        user=raw.get("user"),
        read_only=raw.get("read_only", False),
        tmpfs=raw.get("tmpfs", []),
        volumes=[_volume(text) for text in raw.get("volumes", [])],
        depends_on={other: rule["condition"] for other, rule in raw.get("depends_on", {}).items()},
        stop_grace_s=float(raw.get("stop_grace_period", "10s").removesuffix("s")),
    )


def _health_test(test: list[str]) -> list[str]:
    kind, *words = test or [""]
    return ["sh", "-c", *words] if kind == "CMD-SHELL" else words


def _volume(text: str) -> Volume:
    name, target, *rest = text.split(":")
    return Volume(name, target, rest == ["ro"])
