"""Converts a TorchScript archive into a plain checkpoint, without running its code.

The `data.pkl` of the archive describes the module tree as objects of classes that the archive defines. It is read like
any checkpoint, with a placeholder for each of these classes; the code is left out before torch sees the file.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from retalking_core.digests import file_sha256
from retalking_core.errors import (
    WeightsDigestMismatchError,
    WeightsError,
    WeightsTruncatedError,
    WeightsWrongFileError,
)
from retalking_core.weights.checkpoint import Placeholder, check_state_dict, load_with_placeholders
from retalking_core.weights.table import LockedFile, Pin, WeightFile, record

PUBLISHED = {
    "2DFAN4-cd938726ad.zip": Pin("cd938726adb1f15f361263cce2db9cb820c42585fa8796ec72ce19107f369a46", 96_316_515, 3)
}
CODE_CLASSES = "__torch__."  # of the archive's own classes


def convert(source: Path, folder: Path, entry: WeightFile, accept: frozenset[str] = frozenset()) -> Path:
    """Writes the entry's file into the folder from a TorchScript archive, and locks it. Raises a `WeightsError`.

    accept: digests of archives to accept beyond those that are published.
    """
    digest = file_sha256(source)
    if digest not in accept and digest not in {pin.sha256 for pin in PUBLISHED.values()}:
        known = ", ".join(f"{name} has {pin.sha256}" for name, pin in PUBLISHED.items())
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
