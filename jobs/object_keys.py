"""Which keys an object store accepts, checked in this one place by both implementations.

Keys are made from ids (jobs/names.py), so a refusal here is a fault of ours or an attack, never a typing error.
"""

from __future__ import annotations

import re
import urllib.parse

MAX_KEY_CHARS = 512
# No segment starts with a dot: no `..`, no hidden file. No backslash, colon, control or non-ASCII character.
_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_KEY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_PREFIX = re.compile(rf"(?:{_SEGMENT}/)*(?:{_SEGMENT})?")


class InvalidKeyError(ValueError):
    """Not a key that an object can have."""


def checked_key(key: str) -> str:
    if len(key) > MAX_KEY_CHARS or not _KEY.fullmatch(key):
        raise InvalidKeyError(f"{key[:80]!r} is not an object key")
    return key


def checked_prefix(prefix: str) -> str:
    """For listing. '' lists everything."""
    if len(prefix) > MAX_KEY_CHARS or not _PREFIX.fullmatch(prefix):
        raise InvalidKeyError(f"{prefix[:80]!r} is not the beginning of an object key")
    return prefix


def checked_folder(prefix: str) -> str:
    """For deleting: a prefix that ends at a slash, so that jobs/1 never takes jobs/12 along, and is not everything."""
    if not prefix.endswith("/"):
        raise InvalidKeyError(f"{prefix[:80]!r} does not name a folder of keys; it must end with a slash")
    return checked_prefix(prefix)


def attachment_header(download_name: str) -> str:
    """Content-Disposition for a file name (RFC 6266): an ASCII form, and the exact one where that differs."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", download_name) or "download"
    exact = "" if plain == download_name else f"; filename*=UTF-8''{urllib.parse.quote(download_name, safe='')}"
    return f'attachment; filename="{plain}"{exact}'
