"""Signed links of this service: whether one may be opened now."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Query

from api.dependencies import Dependencies
from jobs.errors import ServiceError
from jobs.signing import is_signed
from jobs.store.keys import is_key_id

LinkExpires = Annotated[int, Query(ge=0, le=10**12, description="From the link")]
LinkHolder = Annotated[str, Query(max_length=128, description="From the link: id of the API key that it ends with")]
LinkSignature = Annotated[str, Query(max_length=128, description="From the link")]


def check_link(parts: Dependencies, method: str, path: str, expires: int | None, holder: str, signature: str) -> None:
    """Raises link_invalid: altered, expired, or made for a key that is revoked. Where keys are required a link without
    one, made before they were, opens nothing."""
    is_whole = expires is not None and is_signed(parts.link_key, method, path, expires, signature, time.time(), holder)
    if not is_whole or not _is_held(parts, holder):
        raise ServiceError("link_invalid", "The link was altered, has expired, or its API key was revoked.")


def _is_held(parts: Dependencies, holder: str) -> bool:
    if not holder:
        return not parts.settings.require_keys
    key = parts.store.keys.find(holder) if is_key_id(holder) else None
    return key is not None and key.revoked_at is None
