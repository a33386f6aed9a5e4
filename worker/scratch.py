"""The temporary folder of one attempt, deleted when the attempt ends, and the job's inputs in it."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import ServiceError
from jobs.models import InputPart, Job, slot_of
from jobs.objects import ObjectStore, ObjectTooLargeError
from retalking_core.digests import file_sha256
from worker.faults import retry_storage

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


# Where having the inputs ends, in the progress of the whole job.
FETCHED = 0.05


@dataclass(frozen=True)
class Inputs:
    """Local files of one attempt, by part. Their names are ours; the kind of a file is read from its bytes. digests:
    SHA-256 by part."""

    paths: dict[InputPart, Path]
    digests: dict[InputPart, str]

    @property
    def video(self) -> Path:
        return self.paths["video"]

    @property
    def speech(self) -> list[Path]:
        return [path for part, path in self.paths.items() if slot_of(part) == "audio"]

    @property
    def expression_image(self) -> Path | None:
        return self.paths.get("expression")


@dataclass(frozen=True)
class InputLoader:
    """beat(stage, fraction of the fetch, detail) is called between files; wait(seconds) between tries."""

    objects: ObjectStore
    max_bytes: int
    beat: Callable[[str, float, object], None]
    wait: Callable[[float], None]
    pauses_s: tuple[float, ...] = ()

    def load(self, job: Job, folder: Path) -> Inputs:
        """Of a render. Raises the errors of `fetch`."""
        paths = self.fetch(job, folder)
        digests = {part: ref.sha256 or file_sha256(paths[part]) for part, ref in job.inputs.items()}
        return Inputs(paths, digests)

    def fetch(self, job: Job, folder: Path) -> dict[InputPart, Path]:
        """By part. Raises ServiceError (body_too_large), ObjectStoreError, ObjectNotFoundError."""
        paths = {part: folder / part for part in job.inputs}
        for number, (part, ref) in enumerate(job.inputs.items()):
            self.beat("fetch", number / len(paths), part)
            self._load(str(ref.key), part, paths[part])
        self.beat("fetch", 1.0, None)
        return paths

    def _load(self, key: str, part: str, path: Path) -> None:
        try:
            retry_storage(lambda: self.objects.fetch(key, path, self.max_bytes), self.pauses_s, self.wait)
        except ObjectTooLargeError:
            raise too_large(part, self.max_bytes) from None


def too_large(part: str, max_bytes: int) -> ServiceError:
    return ServiceError("body_too_large", f"The {part} file is larger than {max_bytes} bytes.")
