"""The weights folder: finding files, and the lock file with the SHA-256 of each. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from retalking_core.weights.errors import WeightsDigestMismatchError, WeightsMissingError
from retalking_core.weights.table import WeightFile


def find_file(folder: Path, entry: WeightFile) -> Path:
    """The entry's file in a folder, under its own name or an alias. Raises weights_missing."""
    for name in (entry.file, *entry.aliases):
        if (folder / name).is_file():
            return folder / name
    raise WeightsMissingError(f"{entry.file} is not in the weights folder", file=entry.file)


LOCK_NAME = "weights.lock.json"


@dataclass(frozen=True)
class LockedFile:
    """source: the address it came from, or how it was made."""

    sha256: str
    size_bytes: int
    source: str


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_lock(folder: Path) -> dict[str, LockedFile]:
    path = folder / LOCK_NAME
    if not path.exists():
        return {}
    return {name: LockedFile(**entry) for name, entry in json.loads(path.read_text())["files"].items()}


def record(folder: Path, name: str, locked: LockedFile) -> None:
    """Adds or replaces one file's entry; the lock file itself is replaced in one step."""
    files = read_lock(folder) | {name: locked}
    document = {"version": 1, "files": {key: asdict(files[key]) for key in sorted(files)}}
    partial = folder / f"{LOCK_NAME}.{os.getpid()}.part"
    partial.write_text(json.dumps(document, indent=1) + "\n")
    partial.replace(folder / LOCK_NAME)


def check_digest(path: Path, locked: LockedFile | None) -> None:
    """Raises if a lock entry exists and the file is another one."""
    if locked is not None and digest_of(path) != locked.sha256:
        raise WeightsDigestMismatchError(
            f"{path.name} is not the file that {LOCK_NAME} recorded (from {locked.source}); remove it and "
            "fetch it again, or remove its entry if the change was wanted",
            file=path.name,
        )
