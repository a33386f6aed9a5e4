"""API keys: who a caller is, what the key allows, and how little of it is kept.

A key is `rtk_<id>_<secret>`. The id (64 bits) is public: it names the owner of jobs, stands in lists and logs, and
finds the record. The secret has 256 random bits, and of the whole key only its SHA-256 is stored. A slow password hash
(bcrypt, Argon2) would add nothing: those make guessing dear where secrets have few bits, and nobody guesses 256. It
would cost its tens of milliseconds at every request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

_KEY = re.compile(r"rtk_([0-9a-f]{16})_[0-9a-f]{64}")
_KEY_ID = re.compile(r"[0-9a-f]{16}")


# Of jobs, 0 to 2. A key is made for the usual one: urgency is only worth something where not everybody has it.
USUAL_PRIORITY, MAX_PRIORITY = 1, 2


class Scope(StrEnum):
    """submit: make, cancel and delete jobs and uploads. read: look at them. admin: both, over the jobs of every key."""

    SUBMIT = "submit"
    READ = "read"
    ADMIN = "admin"


class ApiKey(BaseModel):
    """A key as it is stored. Limits are None where those of the deployment hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    name: str = Field(description="For people: who has it")
    digest: str = Field(repr=False, description="SHA-256 of the whole key, hex")
    scopes: frozenset[Scope]
    requests_per_minute: int | None = None
    live_jobs: int | None = None
    max_priority: int = Field(USUAL_PRIORITY, ge=0, le=MAX_PRIORITY, description="The most urgent it may ask for")
    stored_bytes: int | None = None
    created_at: datetime
    revoked_at: datetime | None = None

    def allows(self, scope: Scope) -> bool:
        return Scope.ADMIN in self.scopes or scope in self.scopes

    def matches(self, text: str) -> bool:
        """In the same time wherever the two differ."""
        return hmac.compare_digest(self.digest, digest_of(text))


def new_key_text() -> str:
    """A fresh key. Shown once to whom it is for, and kept nowhere."""
    return f"rtk_{secrets.token_hex(8)}_{secrets.token_hex(32)}"


def key_id_of(text: str) -> str | None:
    """The public part of a key; None for anything that has not the form of one."""
    found = _KEY.fullmatch(text)
    return found[1] if found else None


def is_key_id(text: str) -> bool:
    return _KEY_ID.fullmatch(text) is not None


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
