"""The certificate and key that results are signed with, checked before a render is spent on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from retalking_core.errors import ProvenanceError

_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True)
class Credentials:
    """chain: PEM, the signer's certificate first, without the root. key: PEM. algorithm: in C2PA's words."""

    chain: bytes
    key: bytes = field(repr=False)
    algorithm: str = "es256"


def load_credentials(cert: Path, key: Path) -> Credentials:
    """Read anew for every job, so that a renewed certificate needs no restart.

    Raises ProvenanceError: a file is missing or is no PEM, the two do not belong together, or the certificate is not
    valid now. Messages hold no paths: they reach callers.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    chain, secret = _read(cert, "certificate"), _read(key, "key")
    try:
        certificates = x509.load_pem_x509_certificates(chain)
        private = serialization.load_pem_private_key(secret, None)
    except (ValueError, TypeError) as error:
        raise ProvenanceError(
            "The signing certificate or key of the worker can not be read: both are unencrypted PEM files."
        ) from error
    leaf, now = certificates[0], datetime.now(UTC)
    if leaf.public_key() != private.public_key():
        raise ProvenanceError("The signing key of the worker does not belong to its certificate.")
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        day = f"{leaf.not_valid_before_utc:%Y-%m-%d} to {leaf.not_valid_after_utc:%Y-%m-%d}"
        raise ProvenanceError(f"The signing certificate of the worker is valid from {day}, and not now.")
    return Credentials(chain, secret, _algorithm(private))


def _algorithm(key: Any) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return "ps256"
    raise ProvenanceError(
        "The signing key of the worker is of a kind that C2PA does not know: use EC P-256, P-384 or P-521, Ed25519, or "
        "RSA from 2048 bits."
    )


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProvenanceError(f"The signing {what} of the worker can not be opened: {error.strerror}.") from error
