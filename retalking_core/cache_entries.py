"""What every face cache does alike: naming, describing and checking entries, and choosing those that must go."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# SHA-256, in hex: the last digits of a key.
DIGEST_DIGITS = 64

_KEY = re.compile(r"[0-9a-f]{16,128}")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


class DamagedEntryError(Exception):
    """An entry that is torn, altered or not in our form. It is read as one that is not there."""


def scope_of(key: str) -> str:
    """What stands before the digest (see `RenderOptions.face_cache_scope`)."""
    return key[:-DIGEST_DIGITS]


def is_key(text: str) -> bool:
    """16 to 128 digits of lower-case hex: keys become names of files and objects."""
    return _KEY.fullmatch(text) is not None


def checked_key(key: str) -> str:
    """Raises ValueError for what is not a key."""
    if not is_key(key):
        raise ValueError(f"{key[:80]!r} is not the key of a cache entry")
    return key


@dataclass(frozen=True)
class StoredFile:
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an entry holds, written last: an entry without one is not there.

    generation: names the folder of this version of the entry, so that a new version never mixes with the old one.
    files: by plain name.
    """

    generation: str
    files: dict[str, StoredFile]

    @classmethod
    def of(cls, folder: Path) -> Manifest:
        """Describe the files in a folder, as a new generation. Raises ValueError for names that we would not read."""
        files = {}
        for path in sorted(folder.iterdir()):
            if not _NAME.fullmatch(path.name) or not path.is_file():
                raise ValueError(f"{path.name[:80]!r} can not be kept in a cache entry")
            files[path.name] = StoredFile(path.stat().st_size, sha256_of(path))
        return cls(secrets.token_hex(8), files)

    @classmethod
    def parse(cls, text: str | bytes) -> Manifest:
        """Raises DamagedEntryError."""
        try:
            document = json.loads(text)
            files = {name: StoredFile(int(size), str(digest)) for name, (size, digest) in document["files"].items()}
            generation = document["generation"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedEntryError("the manifest can not be read") from error
        if not all(map(_NAME.fullmatch, files)) or not _KEY.fullmatch(str(generation)):
            raise DamagedEntryError("the manifest names what no entry holds")
        return cls(generation, files)

    def to_json(self) -> str:
        files = {name: [file.size_bytes, file.sha256] for name, file in self.files.items()}
        return json.dumps({"generation": self.generation, "files": files})

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())

    def check(self, folder: Path) -> None:
        """Raises DamagedEntryError where a file of the folder is not what was stored."""
        for name, file in self.files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != file.size_bytes or sha256_of(path) != file.sha256:
                raise DamagedEntryError(f"{name} is not what was stored")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def empty_folder(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@dataclass(frozen=True)
class EntryUse:
    """used_s: when it was last written or read, seconds since 1970."""

    key: str
    used_s: float
    size_bytes: int


def surplus(entries: Iterable[EntryUse], max_bytes: int, ttl_s: float, now_s: float) -> list[EntryUse]:
    """Which entries go: those not used for ttl_s, then the least recently used until the rest fits."""
    kept_bytes, going = 0, []
    for entry in sorted(entries, key=lambda entry: entry.used_s, reverse=True):
        # Once one does not fit, all older ones go too: else a large entry would be outlived by small, older ones.
        if now_s - entry.used_s > ttl_s or kept_bytes + entry.size_bytes > max_bytes:
            going.append(entry)
            kept_bytes = max_bytes
        else:
            kept_bytes += entry.size_bytes
    return going
