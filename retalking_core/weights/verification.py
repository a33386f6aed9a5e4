"""Says of every weight file whether it is there, which it is, and whether each key and shape fits."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retalking_core.weights.checkpoint import read_state_dict, synthetic_seed
from retalking_core.weights.errors import WeightsError, WeightsMissingError, WeightsTruncatedError
from retalking_core.weights.finding import find_file
from retalking_core.weights.lock import check_digest, digest_of, read_lock
from retalking_core.weights.table import WeightFile


@dataclass(frozen=True)
class FileReport:
    """locked: whether the lock file knows the digest. tensors: how many fit. problem: None for a file that is right."""

    entry: WeightFile
    present: bool
    sha256: str | None = None
    locked: Literal["match", "mismatch", "unlocked"] = "unlocked"
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
    state = "unlocked" if locked is None else "match" if locked.sha256 == digest else "mismatch"
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
