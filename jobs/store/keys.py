"""API keys: the identity of a caller, its permissions and limits, and its rate limit.

A key is `rtk_<id>_<secret>`. The id (64 bits) is public: it names the owner of jobs in lists and logs, and finds the
record. The secret has 256 random bits; only the SHA-256 of the whole key is stored. A slow password hash (bcrypt,
Argon2) would add nothing: it protects secrets with few bits, and would cost tens of milliseconds per request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import UTC, datetime
from enum import StrEnum

from pydantic import Field

from jobs.models import MAX_PRIORITY, USUAL_PRIORITY, FrozenModel
from jobs.store.base import RedisBase
from jobs.store.quarantine import Quarantine
from jobs.store.records import stored_json
from jobs.store.types import Allowance, KeyNotFoundError

_KEY = re.compile(r"rtk_([0-9a-f]{16})_[0-9a-f]{64}")
_KEY_ID = re.compile(r"[0-9a-f]{16}")


class Scope(StrEnum):
    SUBMIT = "submit"  # create, cancel and delete jobs and uploads
    READ = "read"  # read them
    ADMIN = "admin"  # both, for the jobs of every key


class ApiKey(FrozenModel):
    """A key as it is stored. A limit of None means that of the deployment."""

    id: str
    name: str = Field(description="For people: who uses it")
    digest: str = Field(repr=False, description="SHA-256 of the whole key, hex")
    scopes: frozenset[Scope]
    requests_per_minute: int | None = None
    live_jobs: int | None = None
    max_priority: int = Field(USUAL_PRIORITY, ge=0, le=MAX_PRIORITY, description="The most urgent that it may request")
    stored_bytes: int | None = None
    created_at: datetime
    revoked_at: datetime | None = None

    def allows(self, scope: Scope) -> bool:
        return Scope.ADMIN in self.scopes or scope in self.scopes

    def matches(self, text: str) -> bool:
        """Compared in constant time."""
        return hmac.compare_digest(self.digest, digest_of(text))


def new_key_text() -> str:
    """A new key. Show it once; it is not stored."""
    return f"rtk_{secrets.token_hex(8)}_{secrets.token_hex(32)}"


def key_id_of(text: str) -> str | None:
    """The public part of a key; None if the text is not formed like a key."""
    found = _KEY.fullmatch(text)
    return found[1] if found else None


def is_key_id(text: str) -> bool:
    return _KEY_ID.fullmatch(text) is not None


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Keys:
    def __init__(self, base: RedisBase, quarantine: Quarantine) -> None:
        self._redis, self._quarantine = base, quarantine

    def add(self, key: ApiKey) -> None:
        with self._redis.client.pipeline() as pipe:
            pipe.set(self._redis.key("api_key", key.id), stored_json(key))
            pipe.zadd(self._redis.key("api_keys"), {key.id: int(key.created_at.timestamp() * 1000)})
            pipe.execute()

    def find(self, key_id: str) -> ApiKey | None:
        """Also a revoked key: check `revoked_at`. None: unknown, or its record cannot be read."""
        return self._quarantine.read_record("api_key", key_id, ApiKey)

    def all(self) -> list[ApiKey]:
        """Oldest first, including revoked ones."""
        ids = [str(key_id) for key_id in self._redis.client.zrange(self._redis.key("api_keys"), 0, -1)]
        return self._quarantine.read_records("api_key", ids, ApiKey)

    def revoke(self, key_id: str) -> ApiKey:
        """Takes effect from the next request; may be repeated. The record stays, so that the owner of old jobs has a
        name. Raises KeyNotFoundError."""
        key = self.find(key_id)
        if key is None:
            raise KeyNotFoundError(f"There is no key {key_id}")
        if key.revoked_at is None:
            key = key.model_copy(update={"revoked_at": datetime.now(UTC)})
            self._redis.client.set(self._redis.key("api_key", key_id), stored_json(key))
        return key

    def consume_token(self, key_id: str, per_minute: int) -> Allowance:
        """Rate limit of one request (token bucket); an allowed request is counted."""
        allowed, left, retry_ms, full_ms = self._redis.call("consume_token", key_id, per_minute)
        return Allowance(allowed == 1, int(left), retry_in_s=int(retry_ms) / 1000, full_in_s=int(full_ms) / 1000)
