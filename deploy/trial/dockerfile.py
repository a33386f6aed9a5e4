"""Reads a Dockerfile into stages of instructions: the part of the language that ours are written in."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

# What a container runtime sets where the image says nothing.
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KNOWN = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "VOLUME", "CMD"}


class DockerfileError(Exception):
    """An instruction that this reader does not know; the message names file and line."""


@dataclass(frozen=True)
class Instruction:
    """word: upper case. text: everything after it, continuation lines joined, variables as written."""

    word: str
    text: str

    def words(self) -> list[str]:
        return shlex.split(self.text)

    def json_list(self) -> list[str]:
        return json.loads(self.text)


@dataclass(frozen=True)
class Stage:
    """What follows one FROM. base: the image's name, or the name of an earlier stage."""

    name: str
    base: str
    steps: tuple[Instruction, ...]


@dataclass
class ImageConfig:
    """What a runtime takes from an image besides its files. user: a number, as USER gives it."""

    env: dict[str, str] = field(default_factory=lambda: {"PATH": DEFAULT_PATH})
    workdir: str = "/"
    user: str = "0"
    command: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)

    def apply(self, step: Instruction) -> None:
        """Take in an instruction that changes no files; others leave everything as it is."""
        match step.word:
            case "ENV":
                for pair in step.words():
                    name, _, value = pair.partition("=")
                    self.env[name] = expand(value, self.env)
            case "WORKDIR":
                self.workdir = step.text
            case "USER":
                self.user = step.text
            case "CMD":
                self.command = step.json_list()
            case "VOLUME":
                self.volumes = step.json_list()


def read_stages(path: Path) -> list[Stage]:
    """The stages in order. Raises DockerfileError."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    stages: list[Stage] = []
    arguments: dict[str, str] = {}
    for line in filter(None, map(str.strip, joined.splitlines())):
        word, _, text = line.partition(" ")
        if word not in _KNOWN:
            raise DockerfileError(f"{path.name}: {word} is not understood here: {line}")
        step = Instruction(word, text.strip())
        if word == "ARG":
            name, _, value = step.text.partition("=")
            arguments[name] = value
        elif word == "FROM":
            base, *alias = expand(step.text, arguments).split()
            stages.append(Stage(alias[1] if alias else "", base, ()))
        else:
            last = stages[-1]
            stages[-1] = Stage(last.name, last.base, (*last.steps, step))
    return stages


def expand(text: str, values: dict[str, str]) -> str:
    """`$NAME` and `${NAME}` from `values`; an unknown name is an empty string, as in a build."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values.get(found[1] or found[2], ""), text)
