"""Checkpoints that hold objects of other packages beside their weights: read with placeholders that run nothing.

A pickle names classes and functions to call (globals). torch's `weights_only` unpickler refuses every one that it does
not know, and with it whole checkpoints that merely keep a numpy scalar or training options beside their weights. Here
each such name is replaced by an inert class of its own, so that the unpickler has something to call and nothing of the
named package is imported.
"""

from __future__ import annotations

import pickle
import re
import sys
import threading
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from retalking_core.errors import WeightsUnsafeError

MAX_FOREIGN = 64
# What training code keeps in a checkpoint of the standard library: data without behavior. Anything else of it, such as
# `subprocess.Popen` or `builtins.eval`, can only be there to run.
DATA_OF_STANDARD_LIBRARY = frozenset(
    {"argparse.Namespace", "types.SimpleNamespace", "collections.defaultdict", "collections.deque"}
    | {"_codecs.encode", "copyreg._reconstructor"}
    | {f"builtins.{name}" for name in ("object", "bool", "int", "float", "complex", "str", "bytes")}
    | {f"builtins.{name}" for name in ("bytearray", "list", "tuple", "dict", "set", "frozenset", "slice", "range")}
    | {f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")}
    | {f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")}
)


class _ComparesAsDict(type):
    """torch's unpickler sets items only on `type(target) in [dict, ...]`. To be equal to dict lets it hand the items of
    foreign mappings to `Placeholder.__setitem__`."""

    def __eq__(cls, other: object) -> bool:
        return cls is other or other is dict

    __hash__ = type.__hash__


class Placeholder(metaclass=_ComparesAsDict):
    """Stands for an object of a foreign class: swallows arguments and items, and only keeps its state."""

    name = ""
    """Full name of the global that the file asked for."""
    state: object = None

    def __new__(cls, *_args: object) -> Placeholder:
        return super().__new__(cls)

    def __init__(self, *_args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, _key: object, _value: object) -> None:
        pass


_ALLOWED_GLOBALS = threading.Lock()  # torch keeps one list of them for the process


def load_with_placeholders(path: Path, mmap: bool, known: Iterable[str] = ()) -> object:
    """Content of a checkpoint on the CPU. Raises WeightsUnsafeError, with a message without the file's name, for a
    global that is code; otherwise what `torch.load` raises.

    known: names to replace from the start, however many; all others are found one by one.
    """
    foreign: dict[str, Callable[..., Placeholder]] = {name: _placeholder(name) for name in known}
    most = len(foreign) + MAX_FOREIGN
    while True:
        try:
            with _ALLOWED_GLOBALS, torch.serialization.safe_globals([(inert, name) for name, inert in foreign.items()]):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except pickle.UnpicklingError as error:
            name = _refused_global(str(error))
            if name is None or name in foreign:
                raise
            if _is_code(name, str(error)) or len(foreign) >= most:
                raise WeightsUnsafeError(
                    f"loading it would mean trusting {name}, which is more than tensors and plain containers"
                ) from None
            foreign[name] = _placeholder(name)


def _placeholder(name: str) -> type[Placeholder]:
    return type("Placeholder", (Placeholder,), {"name": name})


def _refused_global(message: str) -> str | None:
    """Full name of the global that torch's unpickler stopped at; its message drops `builtins.`."""
    found = re.search(r"GLOBAL (\S+)", message)
    if found is None:
        return None
    return found[1] if "." in found[1] else f"builtins.{found[1]}"


def _is_code(name: str, message: str) -> bool:
    if "is blocked" in message:  # os, posix, nt, sys
        return True
    if name.startswith("torch."):  # a module or an optimizer kept whole is data, torch.load or torch.hub is not
        return not name.startswith(("torch.nn.", "torch.optim."))
    module, _, attribute = name.rpartition(".")
    module = IMPORT_MAPPING.get(module, module)  # protocol 2 writes Python 2's names: `commands` for `subprocess`
    is_standard = module.partition(".")[0] in sys.stdlib_module_names
    return is_standard and f"{module}.{attribute}" not in DATA_OF_STANDARD_LIBRARY
