"""Links of our own that open one object for a while, for object stores that give none.

A link names the API key that it was made for, and its signature covers the name: when the key is revoked the link ends
with it. Where no keys are required it names none.
"""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import urlencode


def link_query(key: bytes, method: str, path: str, expires: int, holder: str = "") -> str:
    """What to put behind the `?`. path: what is named, e.g. `jobs/<id>/media/result`; expires: Unix time in seconds;
    holder: id of the API key."""
    signature = sign_link(key, method, path, expires, holder)
    return urlencode({"expires": expires} | ({"key": holder} if holder else {}) | {"signature": signature})


def sign_link(key: bytes, method: str, path: str, expires: int, holder: str = "") -> str:
    """HMAC-SHA-256 over what the link grants, and to whom, as hex."""
    return hmac.new(key, f"{method} {path} {expires} {holder}".encode(), hashlib.sha256).hexdigest()


def is_signed(key: bytes, method: str, path: str, expires: int, signature: str, now_s: float, holder: str = "") -> bool:
    """True for an unaltered link that has not expired. Compared in constant time."""
    expected = sign_link(key, method, path, expires, holder)
    return hmac.compare_digest(signature.encode(), expected.encode()) and now_s <= expires
