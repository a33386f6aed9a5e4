"""Parsing and validation of `--option key=value`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from retalking_client.cli.failures import EXIT_USAGE, CommandError

Shape = TypeVar("Shape")


def read_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """`output.crf=20` becomes {"output": {"crf": 20}}. A value is JSON where it reads as JSON, else text."""
    spec: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        path = name.strip().split(".")
        if not equals or not all(path):
            raise CommandError("invalid_option", f"--option takes key=value, not {pair!r}.", EXIT_USAGE)
        place = spec
        for step in path[:-1]:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise CommandError("invalid_option", f"{name} and {step} cannot both be set.", EXIT_USAGE)
        place[path[-1]] = _read_value(text)
    return spec


def validate_options(shape: type[Shape], values: dict[str, Any]) -> Shape:
    """Validate before anything is sent or rendered. Raises CommandError that names every fault."""
    try:
        return TypeAdapter(shape).validate_python(values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise CommandError("invalid_option", faults, EXIT_USAGE) from error


def _read_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
