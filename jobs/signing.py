"""Secrets of the deployment, and what they sign: links to objects, and webhooks.

A secret comes from the settings, or is generated once and stored in data_dir.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from jobs.settings import Settings

if TYPE_CHECKING:  # `retalking up` imports this module before it starts anything
    from jobs.store import WebhookSecretState

_WEBHOOK_PREFIX = "whsec_"


class SecretInvalidError(ValueError):
    """A secret in the settings, or in its file, cannot be used."""


def link_secret(settings: Settings) -> bytes:
    """Key that signs upload and result links of the local object store. Raises SecretInvalidError."""
    text = settings.link_secret.get_secret_value() or stored_secret(
        settings.data_dir, "link_secret", secrets.token_hex(32)
    )
    if len(text) < 16:
        raise SecretInvalidError("RETALKING_LINK_SECRET has fewer than 16 characters; use e.g. `openssl rand -hex 32`")
    return text.encode()


def link_query(key: bytes, method: str, path: str, expires: int, holder: str = "") -> str:
    """Query string of a link that opens one object until it expires, for object stores without presigned links.

    path: the resource, e.g. `jobs/<id>/media/result`. expires: Unix time in seconds. holder: whom the link was made
    for, which the signature covers: the id of an API key, whose revocation ends the link, or `account_holder`. Empty if
    no keys are required.
    """
    signature = sign_link(key, method, path, expires, holder)
    return urlencode({"expires": expires} | ({"key": holder} if holder else {}) | {"signature": signature})


_ACCOUNT_HOLDER = "account."


def account_holder(account: str) -> str:
    """Holder of links that no key asked for: they end with the last valid key of the account."""
    return f"{_ACCOUNT_HOLDER}{account}" if account else ""


def account_of_holder(holder: str) -> str | None:
    """None: the holder is a key."""
    return holder.removeprefix(_ACCOUNT_HOLDER) if holder.startswith(_ACCOUNT_HOLDER) else None


def sign_link(key: bytes, method: str, path: str, expires: int, holder: str = "") -> str:
    """HMAC-SHA-256 over what the link grants and to whom, as hex."""
    return hmac.new(key, f"{method} {path} {expires} {holder}".encode(), hashlib.sha256).hexdigest()


def is_signed(key: bytes, method: str, path: str, expires: int, signature: str, now_s: float, holder: str = "") -> bool:
    """True for an unaltered link that has not expired. Compared in constant time."""
    expected = sign_link(key, method, path, expires, holder)
    return hmac.compare_digest(signature.encode(), expected.encode()) and now_s <= expires


def webhook_secret(settings: Settings) -> str:
    """Signing secret in the form of Standard Webhooks: whsec_ and base64 of 24 to 64 bytes. Raises
    SecretInvalidError."""
    fresh = _WEBHOOK_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
    text = settings.webhook_secret.get_secret_value() or stored_secret(settings.data_dir, "webhook_secret", fresh)
    try:
        size_bytes = len(base64.b64decode(text.removeprefix(_WEBHOOK_PREFIX), validate=True))
    except binascii.Error:
        size_bytes = 0
    if not text.startswith(_WEBHOOK_PREFIX) or not 24 <= size_bytes <= 64:
        raise SecretInvalidError(
            "RETALKING_WEBHOOK_SECRET must be whsec_ followed by the base64 form of 24 to 64 random bytes; "
            'use e.g. `echo "whsec_$(openssl rand -base64 32)"`'
        )
    return text


class WebhookSecrets:
    """The secrets that sign webhooks.

    Each account has its own, derived from the secret of the deployment, the id of the account and a version: the job
    store holds no secret, and one account's secret reveals nothing about another's. Webhooks of jobs without an owner
    are signed with the deployment's own secret.
    """

    def __init__(self, settings: Settings, state_of: Callable[[str], WebhookSecretState]) -> None:
        self._shared = webhook_secret(settings)
        self._state_of = state_of

    def of(self, owner: str) -> list[str]:
        """Secrets that sign for this owner now: the current one first, then the previous one during a rotation."""
        return self.at(owner, self._state_of(owner)) if owner else [self._shared]

    def at(self, owner: str, state: WebhookSecretState) -> list[str]:
        versions = [state.version] if state.previous is None else [state.version, state.previous]
        return [self._derived(owner, version) for version in versions]

    def _derived(self, owner: str, version: int) -> str:
        master = base64.b64decode(self._shared.removeprefix(_WEBHOOK_PREFIX))
        digest = hmac.digest(master, f"retalking webhook secret\n{owner}\n{version}".encode(), "sha256")
        return _WEBHOOK_PREFIX + base64.b64encode(digest).decode()


def stored_secret(data_dir: Path, name: str, fresh: str) -> str:
    """The secret in data_dir/secrets/<name>; `fresh` is stored if there is none.

    The file is written completely before it is linked to its name, and the first link wins: concurrent processes read
    the same secret. Raises SecretInvalidError.
    """
    folder = data_dir / "secrets"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / name
    if not path.exists():
        part = folder / f".{name}.{secrets.token_hex(8)}"
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "w", encoding="ascii") as file:
                file.write(fresh)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(part, path)
        finally:
            part.unlink(missing_ok=True)
    text = path.read_text("ascii").strip()
    if not text:
        raise SecretInvalidError(f"{path} is empty; delete it to have a new secret generated")
    return text
