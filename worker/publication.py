"""Publishing the files of a result in a thread, while its attempt goes on with the evaluation."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from worker.context import Attempt
from worker.retry import retry_storage

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
