"""Bringing a job's inputs from the object store into the temporary folder of an attempt."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import ServiceError
from jobs.models import InputPart, Job, slot_of
from jobs.objects import ObjectStore, ObjectTooLargeError
from worker.faults import retry_storage

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
        digests = {part: ref.sha256 or _sha256(paths[part]) for part, ref in job.inputs.items()}
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def too_large(part: str, max_bytes: int) -> ServiceError:
    return ServiceError("body_too_large", f"The {part} file is larger than {max_bytes} bytes.")
