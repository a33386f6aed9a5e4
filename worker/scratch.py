"""The temporary folder of one attempt, deleted when the attempt ends."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

_PREFIX = "retalking-attempt-"
_GATE = ".retalking-attempts.lock"


def scratch_root(work_dir: Path | None) -> Path:
    """Folder of all attempts' folders; created if missing.

    Raises PermissionError if the folder in the system's temporary space belongs to another user.
    """
    root = work_dir or Path(tempfile.gettempdir(), f"retalking-{os.getuid()}")
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if work_dir is None and root.stat().st_uid != os.getuid():
        raise PermissionError(f"{root} belongs to another user; set RETALKING_WORK_DIR")
    return root


@contextmanager
def attempt_folder(root: Path, job_id: str, attempt: int) -> Iterator[Path]:
    """A new private folder, deleted at the end of the block.

    A file lock marks the folder as in use while the process lives. Unlike a process id, a lock works across containers
    that share a disk, and the kernel releases it on SIGKILL too.
    """
    with _gate(root):
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{job_id}-{attempt}-", dir=root))
        hold = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(hold, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(hold)
        if folder.exists():
            log.error("temporary folder not deleted", extra={"job": job_id, "attempt": attempt})


def sweep_orphans(root: Path) -> int:
    """Delete the folders of attempts whose process is dead. Returns how many."""
    removed = 0
    with _gate(root):
        for folder in root.glob(f"{_PREFIX}*"):
            hold = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
            finally:
                os.close(hold)
    return removed


@contextmanager
def _gate(root: Path) -> Iterator[None]:
    """Creating a folder and locking it are two steps; no sweep may run between them."""
    descriptor = os.open(root / _GATE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
