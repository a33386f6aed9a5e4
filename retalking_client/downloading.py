"""Downloads to a file that appears only when it is complete and verified, and that resume after an interruption."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import httpx

from retalking_client.errors import DownloadDamagedError
from retalking_client.models import Job, Result

SUFFIXES = {"video/mp4": "mp4", "video/quicktime": "mov", "video/x-matroska": "mkv"}
BytesHook = Callable[[int, int], None]


class PartialFile:
    """A partial download in `.NAME.JOB.part` beside the target. A later run resumes it."""

    def __init__(self, job_id: str, result: Result, target: Path) -> None:
        self._result, self._target = result, target
        target.parent.mkdir(parents=True, exist_ok=True)
        self._path = target.with_name(f".{target.name}.{job_id}.part")
        if self.size > result.size_bytes:
            self._path.unlink()

    @property
    def size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    @property
    def is_complete(self) -> bool:
        return self._path.exists() and self.size == self._result.size_bytes

    def open_for(self, answer: httpx.Response) -> BinaryIO:
        """Open the file at the offset where the response begins: its end, or 0 if the server ignored the range."""
        start = _start_of(answer)
        file = self._path.open("r+b" if self._path.exists() else "w+b")
        file.seek(start)
        file.truncate()
        return file

    def finish(self) -> Path:
        """Check size and SHA-256, and give the file its name. Raises DownloadDamagedError; a wrong file is removed."""
        with self._path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if self.size != self._result.size_bytes or digest != self._result.sha256:
            self._path.unlink()
            raise DownloadDamagedError("The result arrived damaged: it is not the file that was published.")
        os.replace(self._path, self._target)
        return self._target


def target_of(job: Job, target: str | os.PathLike[str] | None) -> Path:
    """Where the result goes: the path given; a name of its own inside it, where it is a folder or ends as one (`out/`);
    `JOB.mp4` here, where none is given."""
    suffix = SUFFIXES.get(job.result.content_type if job.result else "", "mp4")
    name = f"{job.id}.{suffix}"
    if target is None:
        return Path(name)
    path = Path(target).expanduser()
    is_folder = path.is_dir() or os.fspath(target).endswith(("/", os.sep))
    return path / name if is_folder else path


def _start_of(answer: httpx.Response) -> int:
    """`Content-Range: bytes 100-199/200` -> 100. A whole answer starts at 0."""
    if answer.status_code != 206:
        return 0
    try:
        return int(answer.headers["Content-Range"].removeprefix("bytes ").partition("-")[0])
    except (KeyError, ValueError) as error:
        raise DownloadDamagedError("The answer does not say which part of the file it is.") from error
