"""How much may be stored: quotas, and free space on the disks that the service cannot live without, that of the local
object store and that of Redis.

A full disk ends Redis, and with it the service. So new work is refused while some space is left, for what was accepted
before: its results, its webhooks, the log of Redis.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs.api_keys import ApiKey
from jobs.errors import ServiceError
from jobs.settings import Settings
from jobs.store import ByteQuota

# A Redis that did not say where its data is (it was starting, or is a managed one) is asked again after this.
ASK_AGAIN_S = 60.0


class FreeSpace:
    """folders: on the disks to watch. floor_bytes: what must stay free on each; 0: nothing is checked. find_more: a
    folder that may become known later."""

    def __init__(
        self, folders: Sequence[Path], floor_bytes: int, find_more: Callable[[], Path | None] = lambda: None
    ) -> None:
        self._folders = list(folders)
        self._floor_bytes = floor_bytes
        self._find_more: Callable[[], Path | None] | None = find_more
        self._ask_at_s = 0.0

    def check(self, coming_bytes: int = 0) -> None:
        """Raises storage_full where less than the floor would be left. coming_bytes: about to be written."""
        if not self._floor_bytes:
            return
        self._look_for_more()
        if min(map(_free_bytes, self._folders)) - coming_bytes < self._floor_bytes:
            message = f"Fewer than {self._floor_bytes} bytes would be free on a disk of the service."
            raise ServiceError("storage_full", message)

    def _look_for_more(self) -> None:
        if self._find_more is None or time.monotonic() < self._ask_at_s:
            return
        self._ask_at_s = time.monotonic() + ASK_AGAIN_S
        found = self._find_more()
        if found is not None:
            self._folders.append(found)
            self._find_more = None


def byte_quota(settings: Settings, owner: str, key: ApiKey | None) -> ByteQuota:
    """key: the owner's, where it has one."""
    own = key.stored_bytes if key is not None else None
    return ByteQuota(owner, own or settings.stored_bytes_per_key, settings.stored_bytes)


def storage_refusal(*, is_owners: bool) -> ServiceError:
    """What callers get for a StorageQuotaError."""
    if is_owners:
        message = "This key stores as many bytes as it may: uploads, inputs and results together."
        return ServiceError("storage_quota_exceeded", message)
    return ServiceError("storage_full", "The service stores as many bytes as it may.")


def _free_bytes(folder: Path) -> int:
    """Of the nearest parent that exists: a folder may be made later."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
