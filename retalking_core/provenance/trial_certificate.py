"""A certificate of one's own, to try signing out: an authority that nobody trusts, and a signer under it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_ORGANISATION = "Retalking trial, not for use"


@dataclass(frozen=True)
class TrialCertificate:
    """authority: for `inspect --trust`. chain, key: for RETALKING_C2PA_CERT and RETALKING_C2PA_KEY."""

    authority: Path
    chain: Path
    key: Path


def make_trial_certificate(folder: Path, days: int = 30, now: datetime | None = None) -> TrialCertificate:
    """Writes authority.pem, chain.pem and key.pem (readable by its owner only). Raises FileExistsError."""
    folder.mkdir(parents=True, exist_ok=True)
    made = TrialCertificate(folder / "authority.pem", folder / "chain.pem", folder / "key.pem")
    for path in (made.authority, made.chain, made.key):
        if path.exists():
            raise FileExistsError(17, "There is a file already", str(path))
    begin = (now or datetime.now(UTC)) - timedelta(minutes=5)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _certificate("Trial authority", root_key, None, None, begin, days)
    leaf = _certificate("Trial signer", key, root, root_key, begin, days)
    pem = serialization.Encoding.PEM
    made.authority.write_bytes(root.public_bytes(pem))
    made.chain.write_bytes(leaf.public_bytes(pem) + root.public_bytes(pem))
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with os.fdopen(os.open(made.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
    return made


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey | None,
    begin: datetime,
    days: int,
) -> x509.Certificate:
    """After the certificate profile of C2PA: a signer has `digitalSignature` and a purpose, an authority signs only."""
    is_root = issuer is None
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANISATION)]
    )
    signing_key = issuer_key or key
    usage = x509.KeyUsage(not is_root, False, False, False, False, is_root, is_root, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
    )
    if not is_root:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(signing_key, hashes.SHA256())
