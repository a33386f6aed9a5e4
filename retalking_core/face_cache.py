"""The seat of a face cache: what depends on the video and not on the speech, kept for the next speech. Torch-free.

An entry is a folder of files under a key. Two implementations: `retalking_core.local_face_cache` (a folder of this
machine) and `worker.face_cache` (the object store, shared by all workers); one suite of tests.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class CacheEntry(Protocol):
    """One opened entry.

    folder: private to this render, gone with the block; holds the entry's files where `found`, else empty. Files are
    flat: plain names, no folders inside.
    """

    folder: Path
    found: bool

    def keep(self) -> None:
        """Publish the files that are in `folder` now, in place of what the entry held. A reader sees the old entry or
        the new one, never a mixture. A cache that can not take them logs it and goes on: the render loses nothing."""
        ...


class FaceCache(Protocol):
    def open(self, key: str, waiting: Callable[[], None]) -> AbstractContextManager[CacheEntry]:
        """The entry under `key` (lower-case hex).

        Blocks while another render computes the same key, until its entry appears or its lock lapses, and calls
        `waiting` about once a second meanwhile: what that raises ends the wait. Leaving the block frees the lock and
        deletes `folder`. Raises ValueError for what is not a key.
        """
        ...
