"""Bringing a job's inputs into its temporary folder, from the object store or from an address."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urljoin

from jobs.errors import ServiceError
from jobs.models import InputRef, JobSpec
from jobs.objects import ObjectStore, ObjectTooLargeError
from worker.egress import Egress, TooSlowError, UnreachableError
from worker.retry import retry_storage

MAX_REDIRECTS = 3
IDLE_S = 30.0
# Pauses before a second and a third try; a server that restarts is back by then.
RETRY_PAUSES_S = (1.0, 4.0)

Beat = Callable[[str, float, object], None]


class _PassingError(Exception):
    """The address may answer in a moment."""


@dataclass(frozen=True)
class Inputs:
    """Local files of one attempt. Their names are ours; the kind of a file is read from its bytes."""

    video: Path
    audio: Path
    expression_image: Path | None


@dataclass(frozen=True)
class Fetcher:
    """beat(stage, fraction of the fetch, detail) is called while bytes arrive; wait(seconds) between tries.

    egress: its `total_s` bounds all files of a job that come from addresses together, redirects and tries included: so
    long a stranger's server can hold a worker.
    """

    objects: ObjectStore
    egress: Egress
    max_bytes: int
    beat: Beat
    wait: Callable[[float], None]
    storage_pauses_s: tuple[float, ...] = ()

    def fetch_all(self, spec: JobSpec, folder: Path) -> Inputs:
        """Raises ServiceError (input_unreachable, input_too_slow, url_not_allowed, body_too_large), ObjectStoreError,
        ObjectNotFoundError."""
        ends_at = time.monotonic() + self.egress.total_s
        wanted = {"video": spec.video, "audio": spec.audio, "expression": spec.expression_image}
        parts = {name: ref for name, ref in wanted.items() if ref is not None}
        paths: dict[str, Path] = {}
        for number, (name, ref) in enumerate(parts.items()):
            self.beat("fetch", number / len(parts), name)
            paths[name] = folder / name
            self._fetch(ref, name, paths[name], ends_at)
        self.beat("fetch", 1.0, None)
        return Inputs(paths["video"], paths["audio"], paths.get("expression"))

    def _fetch(self, ref: InputRef, name: str, path: Path, ends_at: float) -> None:
        if ref.kind == "object":
            self._fetch_object(str(ref.key), name, path)
            return
        for pause_s in (*RETRY_PAUSES_S, None):
            try:
                self._download(str(ref.url), name, path, ends_at)
            except _PassingError as fault:
                if time.monotonic() + (pause_s or 0.0) >= ends_at:
                    raise self._too_late(name) from fault
                if pause_s is None:
                    raise ServiceError("input_unreachable", f"The {name} could not be fetched: {fault}.") from fault
                self.wait(pause_s)
            else:
                return

    def _fetch_object(self, key: str, name: str, path: Path) -> None:
        try:
            retry_storage(lambda: self.objects.fetch(key, path, self.max_bytes), self.storage_pauses_s, self.wait)
        except ObjectTooLargeError:
            raise self._too_large(name) from None

    def _download(self, url: str, name: str, path: Path, ends_at: float) -> None:
        """Follows at most MAX_REDIRECTS redirects; each address is checked like the first."""
        for _ in range(MAX_REDIRECTS + 1):
            onward = self._request(url, name, path, ends_at)
            if onward is None:
                return
            url = _redirected(url, onward, name)
        raise ServiceError("input_unreachable", f"The {name} address redirects more than {MAX_REDIRECTS} times.")

    def _request(self, url: str, name: str, path: Path, ends_at: float) -> str | None:
        """One GET. Returns where it redirects to, or None with the file written."""
        left_s = ends_at - time.monotonic()
        if left_s <= 0:
            raise self._too_late(name)
        try:
            with replace(self.egress, total_s=left_s).exchange("GET", url) as answer:
                fields = {key.lower(): value for key, value in answer.headers}
                if answer.status in (301, 302, 303, 307, 308) and b"location" in fields:
                    return fields[b"location"].decode("latin-1")
                self._check_answer(answer.status, fields.get(b"content-length", b""), name)
                self._write_body(answer.iter_stream(), name, path)
                return None
        except TooSlowError as fault:
            raise ServiceError("input_too_slow", f"The {name} comes too slowly from its address: {fault}.") from None
        except UnreachableError as fault:
            raise _PassingError(str(fault)) from fault

    def _check_answer(self, status: int, length: bytes, name: str) -> None:
        if status == 429 or status >= 500:
            raise _PassingError(f"its address answered with status {status}")
        if status != 200:
            raise ServiceError("input_unreachable", f"The {name} address answered with status {status}.")
        if length.isdigit() and int(length) > self.max_bytes:
            raise self._too_large(name)

    def _write_body(self, body: Iterable[bytes], name: str, path: Path) -> None:
        size = 0
        with path.open("wb") as out:
            for chunk in body:
                size += len(chunk)
                if size > self.max_bytes:
                    raise self._too_large(name)
                out.write(chunk)
                self.beat("fetch", 0.0, size)

    def _too_late(self, name: str) -> ServiceError:
        message = f"The {name} had not arrived when the {self.egress.total_s:g} s for the inputs' addresses were over."
        return ServiceError("input_too_slow", message)

    def _too_large(self, name: str) -> ServiceError:
        return ServiceError("body_too_large", f"The {name} file is larger than {self.max_bytes} bytes.")


def _redirected(url: str, location: str, name: str) -> str:
    """The address that a Location header leads to. What stands in it is the other side's: it may be no address."""
    try:
        return urljoin(url, location)
    except ValueError:
        message = f"The {name} address redirects to something that is not a well-formed address."
        raise ServiceError("input_unreachable", message) from None
