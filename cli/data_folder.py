"""The folder of the embedded services: who may use it, where its logs lie, what in it is secret.

DATA/up.lock      held while `retalking up` runs
DATA/logs/*.log   one log a child process
DATA/redis/       the embedded Redis: append-only file, socket, password
DATA/objects/     inputs and results
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retalking_client.cli.failures import EXIT_UNAVAILABLE, CommandError


def prepare_folder(path: Path) -> Path:
    """Create the folder, closed to other users (it holds secrets and people's faces); returns it absolute."""
    folder = path.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "logs").mkdir(exist_ok=True)
    except OSError as error:
        raise CommandError("data_folder_unusable", f"Can not use {folder} as data folder: {error.strerror}") from error
    return folder


@contextmanager
def hold_lock(folder: Path) -> Iterator[None]:
    """One stack a folder. The kernel drops the lock when the holder dies, however it dies, so it never goes stale."""
    path = folder / "up.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 64, 0).decode(errors="replace").strip()
            raise CommandError(
                "data_folder_in_use",
                f"Another retalking (process {holder or 'unknown'}) uses {folder}: stop it, or pass another --data.",
                EXIT_UNAVAILABLE,
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
