"""What happens to the files of a result: signed, then published in a thread, while the attempt goes on with the
evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from jobs.settings import Settings
from retalking_core.errors import ProvenanceError
from retalking_core.media.container import sniff_kind
from retalking_core.provenance import Credentials, InputFile, ProvenanceClaim, load_credentials
from retalking_core.types import RenderReport
from retalking_core.vocabulary.containers import HEAD_BYTES
from retalking_core.vocabulary.options import JobOptions
from worker.context import Attempt
from worker.faults import retry_storage


@dataclass(frozen=True)
class ResultSigner:
    """Signs the result of one job."""

    credentials: Credentials
    mime: str
    """Media type of the result."""
    badge: bool

    def sign(self, file: Path, video: Path, speech: Sequence[Path], report: RenderReport) -> Path:
        """The signed copy, beside the file. Raises ProvenanceError."""
        from retalking_core.provenance import sign_file

        claim = ProvenanceClaim(
            engine=report.engine,
            engine_version=report.engine_version,
            synthetic_weights=report.synthetic_weights,
            video=_input(video),
            speech=tuple(map(_input, speech)),
            mime=self.mime,
            badge=self.badge,
        )
        signed = file.with_name(f"signed.{file.name}")
        sign_file(file, signed, claim, self.credentials)
        return signed


def open_signer(settings: Settings, options: JobOptions) -> ResultSigner | None:
    """Called before the render, so that no render is wasted on a result that cannot be signed. None: no certificate is
    configured.

    Raises ProvenanceError, and OptionUnsupportedError for a container that cannot carry a signature.
    """
    cert, key = settings.c2pa_cert, settings.c2pa_key
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        missing = "RETALKING_C2PA_KEY" if cert else "RETALKING_C2PA_CERT"
        raise ProvenanceError(f"The worker must sign its results, but {missing} is not set.")
    try:
        from retalking_core.provenance import mime_of_result
    except ImportError as error:
        raise ProvenanceError(
            "The worker must sign its results, but the extra `provenance` is not installed."
        ) from error
    return ResultSigner(load_credentials(cert, key), mime_of_result(options.output.container), options.output.badge)


def _input(path: Path) -> InputFile:
    """The kind is read from the content: names prove nothing."""
    with path.open("rb") as file:
        kind = sniff_kind(file.read(HEAD_BYTES))
    return InputFile(path, kind.content_type)


T = TypeVar("T")

# How long an attempt that failed waits for an upload in progress before it gives its job back. What is written later is
# deleted with the job's files.
ENDING_S = 5.0


class Publication:
    """Uploads of one attempt, one after the other. A context manager: leaving it drops what has not begun.

    No object is visible before the job succeeds, and then only those that the attempt's result names.
    """

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="publish")
        self._work: list[Future[Any]] = []

    def __enter__(self) -> Publication:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        wait(self._work, ENDING_S)

    def put(self, key: str, path: Path, content_type: str) -> None:
        """Upload a file after those before it."""
        self.add(lambda: put_file(self.attempt, key, path, content_type))

    def add(self, work: Callable[[], T]) -> Future[T]:
        """Do this after the work before it, in the log context of the caller."""
        done = self._pool.submit(copy_context().run, work)
        self._work.append(done)
        return done

    def finish(self) -> None:
        """Wait for all of it. Raises what it raised: ObjectStoreError, what the keeper's checks raise."""
        for done in self._work:
            done.result()
        self.attempt.keeper.check()


def put_file(attempt: Attempt, key: str, path: Path, content_type: str) -> None:
    """The key is noted before the first byte: a store that answers with an error may have stored the object anyway."""
    context = attempt.context
    attempt.written.append(key)
    retry_storage(
        lambda: context.objects.put_file(key, path, content_type), context.storage_pauses_s, attempt.keeper.wait
    )
