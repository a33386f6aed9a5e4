"""Links of our own that open one object for a while, for object stores that give none."""

from __future__ import annotations

import hashlib
import hmac


def sign_link(key: bytes, method: str, path: str, expires: int) -> str:
    """HMAC-SHA-256 over what the link grants, as hex. path: what is named, e.g. `jobs/<id>/media/result`; expires: Unix
    time in seconds."""
    return hmac.new(key, f"{method} {path} {expires}".encode(), hashlib.sha256).hexdigest()


def is_signed(key: bytes, method: str, path: str, expires: int, signature: str, now_s: float) -> bool:
    """True for an unaltered link that has not expired. Compared in constant time."""
    expected = sign_link(key, method, path, expires)
    return hmac.compare_digest(signature.encode(), expected.encode()) and now_s <= expires
