"""Reads a checkpoint safely and checks it against its manifest, strictly.

No code from a file ever runs: `weights_only=True`, and a file that needs more is refused with the reason."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from retalking_core.errors import (
    WeightsError,
    WeightsKeyMismatchError,
    WeightsMissingError,
    WeightsShapeMismatchError,
    WeightsTruncatedError,
    WeightsUnsafeError,
    WeightsWrongFileError,
)
from retalking_core.weights.table import (
    WEIGHT_FILES,
    Manifest,
    WeightFile,
    check_digest,
    digest_of,
    find_file,
    load_manifest,
    read_lock,
)

ZIP_MAGIC, PICKLE_MAGIC = b"PK\x03\x04", b"\x80"
COUNTER = "num_batches_tracked"
LISTED = 5  # keys named in a message; `details` holds them all
SYNTHETIC_RECORD = "retalking-synthetic-seed"


def read_state_dict(path: Path, entry: WeightFile) -> dict[str, Tensor]:
    """The bare network's tensors of a file, on the CPU (a zip archive's are views of the mapped file), checked."""
    state = _unwrap(_read_safely(path, entry), entry)
    check_state_dict(state, entry)
    for key, spec in entry.manifest().items():
        if key not in state:  # only a counter can be absent here
            state[key] = torch.zeros(spec.shape, dtype=torch.int64)
    return state


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
        return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        raise WeightsUnsafeError(f"{name} is refused: {_unsafe_reason(str(error))}", file=name) from None
    except (EOFError, struct.error, IndexError, KeyError, RuntimeError, ValueError, OSError) as error:
        if "TorchScript" in str(error):
            raise WeightsUnsafeError(f"{name} is refused: it is a TorchScript archive, which holds code") from None
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
    return False


def _unsafe_reason(message: str) -> str:
    if found := re.search(r"GLOBAL (\S+)", message):
        return f"loading it would mean trusting {found[1]}, which is more than tensors and plain containers"
    return "it holds more than tensors and plain containers"


def _unwrap(content: object, entry: WeightFile) -> dict[str, Tensor]:
    """Takes the state dict out of the file's nesting and brings its keys to those of the bare network."""
    if not isinstance(content, Mapping):
        raise WeightsWrongFileError(f"{entry.file} holds no state dict", file=entry.file)
    nested = next((content if not n else content[n] for n in entry.layout.nesting if not n or n in content), None)
    if not isinstance(nested, Mapping):
        there = ", ".join(sorted(map(str, content))[:LISTED])
        wanted = " or ".join(repr(n) for n in entry.layout.nesting)
        raise WeightsWrongFileError(f"{entry.file} has no entry {wanted}; it has: {there}", file=entry.file)
    if not all(isinstance(value, Tensor) for value in nested.values()):
        raise WeightsWrongFileError(f"{entry.file} holds other things than tensors where its weights should be")
    renamed = ((entry.layout.bare_key(str(key)), value) for key, value in nested.items())
    return {key: value for key, value in renamed if key is not None}


def check_state_dict(state: Mapping[str, Tensor], entry: WeightFile) -> None:
    """Every key, shape and kind of number against the manifest; only batch counters, which evaluation never reads and
    files older than 2018 lack, may be absent."""
    manifest = entry.manifest()
    common = manifest.keys() & state.keys()
    if 2 * len(common) < len(manifest):
        raise WeightsWrongFileError(
            f"{entry.file} is not the checkpoint of {entry.network}{_resemblance(state)}", file=entry.file
        )
    missing = [key for key in manifest if key not in state and not key.endswith(COUNTER)]
    unexpected = [key for key in state if key not in manifest]
    if missing or unexpected:
        raise WeightsKeyMismatchError(
            f"{entry.file} does not fit {entry.network}: {_listing('missing', missing)}; "
            f"{_listing('unexpected', unexpected)}",
            file=entry.file,
            missing=missing,
            unexpected=unexpected,
        )
    wrong = [line for key in common if (line := _tensor_problem(key, state[key], manifest))]
    if wrong:
        raise WeightsShapeMismatchError(
            f"{entry.file} does not fit {entry.network}: {_listing('wrong', sorted(wrong))}",
            file=entry.file,
            tensors=sorted(wrong),
        )


def _tensor_problem(key: str, tensor: Tensor, manifest: Manifest) -> str | None:
    spec = manifest[key]
    if tuple(tensor.shape) != spec.shape:
        return f"{key} is {list(tensor.shape)}, not {list(spec.shape)}"
    if tensor.is_floating_point() != spec.dtype.startswith("float"):
        return f"{key} holds {tensor.dtype}, not {spec.dtype}"
    return None


def _listing(word: str, keys: list[str]) -> str:
    more = f" and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
    return f"{len(keys)} {word}" + (f" ({', '.join(keys[:LISTED])}{more})" if keys else "")


def _resemblance(state: Mapping[str, Tensor]) -> str:
    """Names the network whose keys the file does hold, if it is one of ours."""
    for other in WEIGHT_FILES.values():
        if (keys := load_manifest(other.network).keys()) and keys <= state.keys():
            return f"; its keys are those of {other.network}"
    return ""


LockState = Literal["match", "mismatch", "unlocked"]


@dataclass(frozen=True)
class FileReport:
    """locked: whether the lock file knows the digest. tensors: how many fit. problem: None for a file that is right."""

    entry: WeightFile
    present: bool
    sha256: str | None = None
    locked: LockState = "unlocked"
    seed: int | None = None
    tensors: int = 0
    problem: WeightsError | None = None


def verify_file(folder: Path, entry: WeightFile) -> FileReport:
    """Never raises a `WeightsError`: it becomes the report's `problem`."""
    try:
        path = find_file(folder, entry)
    except WeightsMissingError as error:
        return FileReport(entry, present=False, problem=error)
    digest = digest_of(path)
    locked = read_lock(folder).get(path.name)
    state: LockState = "unlocked" if locked is None else "match" if locked.sha256 == digest else "mismatch"
    try:
        check_members(path, entry)
        tensors = len(read_state_dict(path, entry))
        seed = synthetic_seed(path)
        check_digest(path, locked)
    except WeightsError as error:
        return FileReport(entry, True, digest, state, problem=error)
    return FileReport(entry, True, digest, state, seed, tensors)


def check_members(path: Path, entry: WeightFile) -> None:
    """Every member of a zip archive against its checksum (loading alone does not look)."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise WeightsTruncatedError(f"{entry.file} is damaged: a part fails its checksum", file=entry.file)
