"""Reads a checkpoint safely and checks it against its manifest, strictly.

No code from a file ever runs: `weights_only=True`, and objects of other packages become placeholders.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import struct
import sys
import tarfile
import threading
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.io import loadmat, whosmat
from torch import Tensor

from retalking_core.digests import file_sha256
from retalking_core.errors import (
    WeightsDigestMismatchError,
    WeightsError,
    WeightsKeyMismatchError,
    WeightsMissingError,
    WeightsShapeMismatchError,
    WeightsTruncatedError,
    WeightsUnsafeError,
    WeightsWrongFileError,
)
from retalking_core.weights.table import (
    LOCK_NAME,
    NETWORK_FILES,
    WEIGHT_FILES,
    LockedFile,
    Manifest,
    Pin,
    WeightFile,
    find_file,
    load_manifest,
    read_lock,
    record,
)

MAX_FOREIGN = 64
# What training code keeps in a checkpoint of the standard library: data without behavior. Anything else of it, such as
# `subprocess.Popen` or `builtins.eval`, can only be there to run.
DATA_OF_STANDARD_LIBRARY = frozenset(
    {"argparse.Namespace", "types.SimpleNamespace", "collections.defaultdict", "collections.deque"}
    | {"_codecs.encode", "copyreg._reconstructor"}
    | {f"builtins.{name}" for name in ("object", "bool", "int", "float", "complex", "str", "bytes")}
    | {f"builtins.{name}" for name in ("bytearray", "list", "tuple", "dict", "set", "frozenset", "slice", "range")}
    # Python 3.13 alone calls the module `pathlib._local`.
    | {
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    }
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
    """Content of a checkpoint on the CPU, with placeholders for objects of other packages, which run nothing. Raises
    WeightsUnsafeError, with a message without the file's name, for a global that is code; otherwise what `torch.load`
    raises.

    A pickle names classes and functions to call (globals). torch's `weights_only` unpickler refuses every one that it
    does not know, and with it whole checkpoints that merely keep a numpy scalar or training options beside their
    weights. Here each such name is replaced by an inert class of its own, so that the unpickler has something to call
    and nothing of the named package is imported.

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


COEFFICIENTS = 64
TEMPLATE_KEYS = {"neutral": "expression_center", "smile": "expression_mouth"}
MAX_ELEMENTS = 10_000_000  # the variables are compressed: bounded before they are unpacked


def read_templates(path: Path, name: str | None = None) -> dict[str, NDArray[np.float32]]:
    """f32 [64] of `neutral` and `smile`: row 0 of 2-D variables with at least 64 columns. Only these are read.

    name: for messages, where the file has another one yet.

    Raises: weights_wrong_file, weights_truncated,
    weights_shape_mismatch.
    """
    name = name or path.name
    try:
        shapes = {variable: shape for variable, shape, _kind in whosmat(path, appendmat=False)}
    except Exception as error:  # the reader of MATLAB files raises what it stumbles over
        raise WeightsWrongFileError(f"{name} is not a MATLAB 5 file", file=name) from error
    missing = [key for key in TEMPLATE_KEYS.values() if key not in shapes]
    if missing:
        raise WeightsWrongFileError(f"{name} has no variable {' and '.join(missing)}", file=name)
    for key in TEMPLATE_KEYS.values():
        shape = shapes[key]
        if len(shape) != 2 or shape[0] < 1 or shape[1] < COEFFICIENTS or np.prod(shape) > MAX_ELEMENTS:
            wanted = f"2-D with at least {COEFFICIENTS} columns"
            raise WeightsShapeMismatchError(f"{name}: {key} is {list(shape)}, not {wanted}", file=name, tensors=[key])
    try:
        content: dict[str, Any] = loadmat(path, appendmat=False, variable_names=list(TEMPLATE_KEYS.values()))
    except Exception as error:
        raise WeightsTruncatedError(f"{name} ends too early or is damaged", file=name) from error
    return {word: _first_row(content.get(key), key, name) for word, key in TEMPLATE_KEYS.items()}


def _first_row(values: object, key: str, file: str) -> NDArray[np.float32]:
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu" or values.ndim != 2:
        raise WeightsShapeMismatchError(f"{file}: {key} holds no real numbers", file=file, tensors=[key])
    row = values[0, :COEFFICIENTS].astype(np.float32)
    if not np.isfinite(row).all():
        raise WeightsShapeMismatchError(f"{file}: {key} holds numbers that are not finite", file=file, tensors=[key])
    return row


ZIP_MAGIC, PICKLE_MAGIC = b"PK\x03\x04", b"\x80"
COUNTER = "num_batches_tracked"
LISTED = 5  # keys named in a message; `details` holds them all
SYNTHETIC_RECORD = "retalking-synthetic-seed"


@dataclass(frozen=True)
class Checkpoint:
    """tensors: of the bare network, by manifest key, on the CPU. ignored: keys that the file holds beyond these."""

    tensors: dict[str, Tensor]
    ignored: tuple[str, ...] = ()


def read_state_dict(path: Path, entry: WeightFile) -> dict[str, Tensor]:
    """The bare network's tensors of a file, on the CPU (a zip archive's are views of the mapped file), checked."""
    return read_checkpoint(path, entry).tensors


def read_checkpoint(path: Path, entry: WeightFile) -> Checkpoint:
    """Like `read_state_dict`, with the names of what was left out. Raises a `WeightsError`."""
    checkpoint = check_state_dict(_unwrap(_read_safely(path, entry), entry), entry)
    for key, spec in entry.manifest().items():
        if key not in checkpoint.tensors:  # only a counter can be absent here
            checkpoint.tensors[key] = torch.zeros(spec.shape, dtype=torch.int64)
    return checkpoint


def synthetic_seed(path: Path) -> int | None:
    """The seed if the file was written by `weights synthesize`, else None. The mark travels inside the file."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(f"/{SYNTHETIC_RECORD}")]
        return int(archive.read(names[0])) if names else None


def _read_safely(path: Path, entry: WeightFile) -> object:
    name = entry.file
    archive = _check_envelope(path, name)
    try:
        return load_with_placeholders(path, mmap=archive)
    except WeightsUnsafeError as error:
        raise WeightsUnsafeError(f"{name} is refused: {error.message}", file=name) from None
    except pickle.UnpicklingError:
        reason = "it holds more than tensors and plain containers"
        raise WeightsUnsafeError(f"{name} is refused: {reason}", file=name) from None
    except (AttributeError, TypeError, AssertionError, RecursionError):
        # What the unpickler of torch raises where a pickle calls an allowed function with wrong arguments.
        raise WeightsUnsafeError(f"{name} is refused: its pickle is malformed", file=name) from None
    except (EOFError, struct.error, IndexError, KeyError, RuntimeError, ValueError, OSError) as error:
        if "magic number" in str(error):
            raise WeightsWrongFileError(f"{name} is a pickle, but not a torch checkpoint", file=name) from None
        raise WeightsTruncatedError(f"{name} ends too early or is damaged", file=name) from error


def _check_envelope(path: Path, name: str) -> bool:
    """Whether the file is a zip archive (else an old plain pickle)."""
    with path.open("rb") as file:
        magic = file.read(4)
    if not magic:
        raise WeightsTruncatedError(f"{name} is empty", file=name)
    if magic == ZIP_MAGIC:
        if not zipfile.is_zipfile(path):
            raise WeightsTruncatedError(f"{name} ends before its table of contents", file=name)
        with zipfile.ZipFile(path) as archive:
            if any(member.endswith("/constants.pkl") for member in archive.namelist()):
                raise WeightsUnsafeError(f"{name} is refused: it is a TorchScript archive, which holds code", file=name)
        return True
    if magic[:1] != PICKLE_MAGIC:
        raise WeightsWrongFileError(f"{name} is not a torch checkpoint", file=name)
    if tarfile.is_tarfile(path):  # torch's oldest format, which its loader unpacks to disk
        raise WeightsUnsafeError(f"{name} is refused: it is a tar archive", file=name)
    return False


def _unwrap(content: object, entry: WeightFile) -> dict[str, object]:
    """Takes the state dict out of the file's nesting and brings its keys to those of the bare network."""
    if not isinstance(content, Mapping):
        raise WeightsWrongFileError(f"{entry.file} holds no state dict", file=entry.file)
    nested = next((content if not n else content[n] for n in entry.layout.nesting if not n or n in content), None)
    if isinstance(nested, Placeholder):
        raise _needs_foreign(entry, nested)
    if not isinstance(nested, Mapping):
        there = ", ".join(sorted(map(str, content))[:LISTED])
        wanted = " or ".join(repr(n) for n in entry.layout.nesting)
        raise WeightsWrongFileError(f"{entry.file} has no entry {wanted}; it has: {there}", file=entry.file)
    state: dict[str, object] = {}
    for key, value in nested.items():
        bare = entry.layout.bare_key(str(key))
        if bare in state:
            raise WeightsKeyMismatchError(f"{entry.file} holds {bare} twice", file=entry.file, unexpected=[str(key)])
        state[bare] = value
    return state


def check_state_dict(state: Mapping[str, object], entry: WeightFile) -> Checkpoint:
    """Every key, shape and kind of number against the manifest. Only batch counters, which evaluation never reads and
    files older than 2018 lack, may be absent.

    This is the one place that decides about extra keys. They are ignored in the files that the original loads with
    `strict=False`, where nobody could notice them, and fatal elsewhere. A missing or misshapen tensor is always fatal.
    """
    manifest = entry.manifest()
    tensors = {key: value for key, value in state.items() if key in manifest and isinstance(value, Tensor)}
    foreign = next((value for value in state.values() if isinstance(value, Placeholder)), None)
    if 2 * len(tensors) < len(manifest):
        if foreign is not None:
            raise _needs_foreign(entry, foreign)
        resemblance = _resemblance(state)
        raise WeightsWrongFileError(
            f"{entry.file} is not the checkpoint of {entry.network}{resemblance}", file=entry.file
        )
    missing = [key for key in manifest if key not in tensors and not key.endswith(COUNTER)]
    extra = [key for key in state if key not in tensors]
    if foreign is not None and (missing or entry.layout.extra_keys == "refuse"):
        raise _needs_foreign(entry, foreign)
    if missing or (extra and entry.layout.extra_keys == "refuse"):
        raise WeightsKeyMismatchError(
            f"{entry.file} does not fit {entry.network}: {_listing('missing', missing)}; "
            f"{_listing('unexpected', extra)}",
            file=entry.file,
            missing=missing,
            unexpected=extra,
        )
    wrong = sorted(line for key, tensor in tensors.items() if (line := _tensor_problem(key, tensor, manifest)))
    if wrong:
        raise WeightsShapeMismatchError(
            f"{entry.file} does not fit {entry.network}: {_listing('wrong', wrong)}", file=entry.file, tensors=wrong
        )
    return Checkpoint(tensors, tuple(extra))


def _needs_foreign(entry: WeightFile, foreign: Placeholder) -> WeightsUnsafeError:
    return WeightsUnsafeError(
        f"{entry.file} is refused: its weights need {foreign.name}, which is more than tensors and plain containers",
        file=entry.file,
    )


def _tensor_problem(key: str, tensor: Tensor, manifest: Manifest) -> str | None:
    spec = manifest[key]
    if tuple(tensor.shape) != spec.shape:
        return f"{key} is {list(tensor.shape)}, not {list(spec.shape)}"
    if tensor.is_floating_point() != spec.dtype.startswith("float"):
        return f"{key} holds {tensor.dtype}, not {spec.dtype}"
    return None


def _listing(word: str, keys: Sequence[str]) -> str:
    more = f" and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
    return f"{len(keys)} {word}" + (f" ({', '.join(keys[:LISTED])}{more})" if keys else "")


def _resemblance(state: Mapping[str, object]) -> str:
    """Names the network whose keys the file does hold, if it is one of ours."""
    for other in (WEIGHT_FILES[name] for name in NETWORK_FILES):
        if (keys := load_manifest(other.network).keys()) and keys <= state.keys():
            return f"; its keys are those of {other.network}"
    return ""


LockState = Literal["match", "mismatch", "unlocked"]


@dataclass(frozen=True)
class FileReport:
    """locked: whether the lock file knows the digest. tensors: how many fit. ignored: extra keys, which are not read.
    problem: None for a file that is right."""

    entry: WeightFile
    present: bool
    sha256: str | None = None
    locked: LockState = "unlocked"
    seed: int | None = None
    tensors: int = 0
    ignored: tuple[str, ...] = ()
    problem: WeightsError | None = None


def verify_file(folder: Path, entry: WeightFile) -> FileReport:
    """Never raises a `WeightsError`: it becomes the report's `problem`."""
    try:
        path = find_file(folder, entry)
    except WeightsMissingError as error:
        return FileReport(entry, present=False, problem=error)
    digest = file_sha256(path)
    locked = read_lock(folder).get(path.name)
    state: LockState = "unlocked" if locked is None else "match" if locked.sha256 == digest else "mismatch"
    try:
        check_members(path, entry)
        tensors, ignored = check_content(path, entry)
        seed = synthetic_seed(path)
        check_digest(path, entry, locked)
    except WeightsError as error:
        return FileReport(entry, True, digest, state, problem=error)
    return FileReport(entry, True, digest, state, seed, tensors, ignored)


def check_content(path: Path, entry: WeightFile) -> tuple[int, tuple[str, ...]]:
    """How many tensors (or templates) fit, and the extra keys. Raises a `WeightsError`."""
    if entry.kind == "templates":
        return len(read_templates(path, entry.file)), ()
    checkpoint = read_checkpoint(path, entry)
    return len(checkpoint.tensors), checkpoint.ignored


def check_digest(path: Path, entry: WeightFile, locked: LockedFile | None, name: str | None = None) -> str | None:
    """Against the folder's lock and the table's pin. Raises weights_digest_mismatch. Returns the digest; None where
    there is nothing to compare it with, so that the file was not read.

    name: that the file will have, where it has another one yet. A generated file need not meet the pin: it is reported
    as synthetic wherever it is used.
    """
    name = name or path.name
    pin = entry.pins.get(name)
    if pin is None and locked is None:
        return None
    digest = file_sha256(path)
    if locked is not None and digest != locked.sha256:
        raise WeightsDigestMismatchError(
            f"{name} has SHA-256 {digest}, but {LOCK_NAME} recorded {locked.sha256} (from {locked.source}). Remove the "
            "file and fetch it again, or remove its entry if the change was wanted",
            file=name,
        )
    if pin is None or digest == pin.sha256 or (locked and locked.accepted) or synthetic_seed(path) is not None:
        return digest
    sources = "one public source" if pin.sources == 1 else f"{pin.sources} public sources"
    raise WeightsDigestMismatchError(
        f"{name} has SHA-256 {digest}, but the published file has {pin.sha256} ({sources}). If you trust this file, "
        f"run `retalking weights fetch {entry.name} --accept-digest {digest}`",
        file=name,
    )


def check_members(path: Path, entry: WeightFile) -> None:
    """Every member of a zip archive against its checksum (loading alone does not look)."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise WeightsTruncatedError(f"{entry.file} is damaged: a part fails its checksum", file=entry.file)


PUBLISHED_TORCHSCRIPT = {
    "2DFAN4-cd938726ad.zip": Pin("cd938726adb1f15f361263cce2db9cb820c42585fa8796ec72ce19107f369a46", 96_316_515, 3)
}
CODE_CLASSES = "__torch__."  # of the archive's own classes


def convert_torchscript(source: Path, folder: Path, entry: WeightFile, accept: frozenset[str] = frozenset()) -> Path:
    """Writes the entry's file into the folder from a TorchScript archive, and locks it. Raises a `WeightsError`.

    No code of the archive runs. Its `data.pkl` describes the module tree as objects of classes that the archive
    defines. It is read like any checkpoint, with a placeholder for each of these classes; the code is left out before
    torch sees the file.

    accept: digests of archives to accept beyond those that are published.
    """
    digest = file_sha256(source)
    if digest not in accept and digest not in {pin.sha256 for pin in PUBLISHED_TORCHSCRIPT.values()}:
        known = ", ".join(f"{name} has {pin.sha256}" for name, pin in PUBLISHED_TORCHSCRIPT.items())
        raise WeightsDigestMismatchError(
            f"{source.name} has SHA-256 {digest}, which is not published ({known}). If you trust it, pass "
            f"--accept-digest {digest}",
            file=source.name,
        )
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".convert-") as scratch:
        tensors = _read_tensors(source, Path(scratch) / "data.zip")
        checked = check_state_dict(tensors, entry)
        partial = Path(scratch) / entry.file
        torch.save(checked.tensors, partial)
        locked = LockedFile(
            file_sha256(partial), partial.stat().st_size, f"converted from {source.name}", accepted=True
        )
        path = partial.replace(folder / entry.file)
    record(folder, path.name, locked)
    return path


def _read_tensors(source: Path, data_only: Path) -> dict[str, object]:
    try:
        with zipfile.ZipFile(source) as archive:
            if archive.testzip() is not None:
                raise WeightsTruncatedError(f"{source.name} is damaged: a part fails its checksum", file=source.name)
            root = archive.namelist()[0].split("/")[0]
            pickled = archive.read(f"{root}/data.pkl")
            with zipfile.ZipFile(data_only, "w", zipfile.ZIP_STORED) as copy:
                for name in archive.namelist():
                    if name == f"{root}/constants.pkl" or name.startswith(f"{root}/code/"):
                        continue
                    copy.writestr(f"data/{name.removeprefix(f'{root}/')}", archive.read(name))
        classes = {
            str(argument).replace(" ", ".") for op, argument, _ in pickletools.genops(pickled) if op.name == "GLOBAL"
        }
        content = load_with_placeholders(
            data_only, mmap=False, known=[name for name in classes if name.startswith(CODE_CLASSES)]
        )
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsWrongFileError(f"{source.name} is not a TorchScript archive", file=source.name) from error
    return dict(_tensors_of(content, ""))


def _tensors_of(module: object, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) of a module tree, as `state_dict` names them."""
    if not isinstance(module, Placeholder) or not isinstance(module.state, dict):
        return
    for name, value in module.state.items():
        if isinstance(value, Tensor):
            yield prefix + str(name), value
        else:
            yield from _tensors_of(value, f"{prefix}{name}.")
