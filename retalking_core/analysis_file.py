"""What an engine learned about a clip, as a file: frozen dataclasses of arrays and plain values, to .npz and back.

Arrays keep their bytes, so a scene that was read draws what the scene that was written draws. Nothing in the file is
code: numpy's pickles are refused, and the dataclass to build is named by the reader.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from retalking_core.errors import EngineFaultError

Scene = TypeVar("Scene")
_VALUES = "values.json"


def save_analysis(path: Path, scene: object) -> None:
    """Fields may be arrays, None, bool, int, float, str, Fraction, lists or tuples of numbers, further dataclasses, and
    tuples of dataclasses of one kind. Raises TypeError for anything else: that is a fault of the engine's author."""
    arrays: dict[str, np.ndarray] = {}
    values: dict[str, Any] = {}
    _flatten(scene, "", arrays, values)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_VALUES, json.dumps(values))
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def load_analysis(path: Path, kind: type[Scene]) -> Scene:
    """Raises EngineFaultError for a file that does not hold a scene of this kind: another version wrote it."""
    try:
        with zipfile.ZipFile(path) as archive:
            values = json.loads(archive.read(_VALUES))

            def array_of(name: str) -> np.ndarray:
                with archive.open(f"{name}.npy") as entry:
                    return np.lib.format.read_array(entry, allow_pickle=False)

            analysis: Scene = _build(kind, "", values, array_of)
            return analysis
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise EngineFaultError("The analysis of the clip could not be read back.") from error


def _flatten(scene: Any, prefix: str, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> None:
    for field in dataclasses.fields(scene):
        name, value = prefix + field.name, getattr(scene, field.name)
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif isinstance(value, Fraction):
            values[name] = [value.numerator, value.denominator]
        elif dataclasses.is_dataclass(value):
            _flatten(value, f"{name}.", arrays, values)
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            values[name] = len(value)
            for number, each in enumerate(value):
                _flatten(each, f"{name}.{number}.", arrays, values)
        elif value is None or isinstance(value, bool | int | float | str | list | tuple):
            values[name] = value
        elif isinstance(value, np.generic):
            values[name] = value.item()
        else:
            raise TypeError(f"{name} is a {type(value).__name__}: a scene holds arrays and plain values only")


def _build(kind: Any, prefix: str, values: dict[str, Any], array_of: Callable[[str], np.ndarray]) -> Any:
    hints = get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(kind):
        name, hint = prefix + field.name, hints[field.name]
        item = get_args(hint)[0] if get_origin(hint) is tuple else None
        if dataclasses.is_dataclass(hint):
            found[field.name] = _build(hint, f"{name}.", values, array_of)
        elif dataclasses.is_dataclass(item):
            found[field.name] = tuple(_build(item, f"{name}.{k}.", values, array_of) for k in range(values[name]))
        elif name not in values:
            found[field.name] = array_of(name)
        else:
            found[field.name] = _plain(values[name], hint)
    return kind(**found)


def _plain(value: Any, hint: Any) -> Any:
    """JSON has neither fractions nor tuples."""
    if hint is Fraction:
        return Fraction(*value)
    if isinstance(value, list) and getattr(hint, "__origin__", None) is tuple:
        return tuple(value)
    if isinstance(value, list):
        return [tuple(each) if isinstance(each, list) else each for each in value]
    return value
