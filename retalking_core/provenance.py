"""Content Credentials: C2PA 2.x manifests with actions v2, signing, and trial certificates."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from retalking_core.digests import file_sha256
from retalking_core.errors import OptionUnsupportedError, ProvenanceError
from retalking_core.vocabulary.containers import OUTPUTS, OutputContainer

_IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
# IPTC NewsCodes, edition of September 2024. The neural engine draws parts of real frames with trained networks, as the
# first term means it ("such as with inpainting"). The preview engine bends and paints real pixels by rule: no trained
# network makes a pixel, so the terms with trained or generative AI would be false (`compositeSynthetic` now
# means generative AI too); it changes what a person seems to say, so `algorithmicallyEnhanced` ("without changing the
# main content") would belittle it. `composite` claims neither.
SOURCE_TYPES = {
    "videoretalking": f"{_IPTC}compositeWithTrainedAlgorithmicMedia",
    "preview": f"{_IPTC}composite",
}
VIDEO, SPEECH = "video", "speech"


@dataclass(frozen=True)
class InputFile:
    """path: as fetched; mime: its kind by its own bytes, e.g. `video/mp4`."""

    path: Path
    mime: str


@dataclass(frozen=True)
class ProvenanceClaim:
    """Who made the result, and of what. mime: of the result. badge: the picture itself carries a visible note."""

    engine: str
    engine_version: str
    synthetic_weights: bool
    video: InputFile
    speech: tuple[InputFile, ...]
    mime: str
    badge: bool = False


def manifest_definition(claim: ProvenanceClaim) -> dict[str, Any]:
    """The manifest without its inputs. Names of files, people and jobs are not in it: results are passed on."""
    source_type = SOURCE_TYPES.get(claim.engine)
    agent = {"name": "Retalking", "version": claim.engine_version}
    lips: dict[str, Any] = {
        "action": "c2pa.edited",
        "softwareAgent": agent,
        "description": _describe(claim),
        "parameters": {
            "com.retalking.engine": claim.engine,
            "com.retalking.synthetic_weights": claim.synthetic_weights,
        },
    }
    if source_type:
        lips["digitalSourceType"] = source_type
    actions = [
        {"action": "c2pa.opened", "parameters": {"ingredientIds": [VIDEO]}},
        lips,
        {
            "action": "c2pa.placed",
            "description": "The speech track took the place of the sound",
            "parameters": {"ingredientIds": [*_speech_names(claim)]},
        },
    ]
    if claim.badge:
        note = "A visible badge says that the video is synthetic"
        actions.append({"action": "c2pa.addedText", "softwareAgent": agent, "description": note})
    return {
        "claim_generator_info": [agent],
        "title": "Lip-synced video",
        "format": claim.mime,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }


def _speech_names(claim: ProvenanceClaim) -> dict[str, InputFile]:
    """Files of speech by the names of their ingredients: `speech`, or `speech_1`, `speech_2`, ..."""
    if len(claim.speech) == 1:
        return {SPEECH: claim.speech[0]}
    return {f"{SPEECH}_{number}": file for number, file in enumerate(claim.speech, start=1)}


def ingredient(name: str, relationship: str, file: InputFile, note: str = "") -> dict[str, Any]:
    """An input as C2PA records it. Its digest lets who holds the file prove that it was this one."""
    return {
        "title": f"Input {name}",
        "label": name,
        "format": file.mime,
        "relationship": relationship,
        "description": f"SHA-256 {file_sha256(file.path)}{note}",
    }


def _describe(claim: ProvenanceClaim) -> str:
    text = f"Synthetic media: the mouth was made to speak another track, by the engine {claim.engine}"
    return f"{text}; with generated, untrained weights" if claim.synthetic_weights else text


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
            "The signing certificate or key of the worker cannot be read: both are unencrypted PEM files."
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
        raise ProvenanceError(f"The signing {what} of the worker cannot be opened: {error.strerror}.") from error


# Nothing is fetched: an input may name an address for its manifest, and that address is a stranger's. No thumbnails:
# they would be pictures of a face inside every copy. Trust is the reader's business, not the signer's.
OFFLINE: dict[str, Any] = {
    "version": 1,
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": True},
    "builder": {"thumbnail": {"enabled": False}},
}


def mime_of_result(container: OutputContainer) -> str:
    """Raises OptionUnsupportedError for a container that cannot carry a manifest."""
    kind = OUTPUTS[container]
    if not kind.can_be_signed:
        signable = " or ".join(name for name, each in OUTPUTS.items() if each.can_be_signed)
        raise OptionUnsupportedError(
            f"This service signs its results, and {container} files cannot carry a signature: ask for "
            f"output.container {signable}.",
            option="output.container",
        )
    return kind.content_type


def sign_file(source: Path, target: Path, claim: ProvenanceClaim, credentials: Credentials) -> None:
    """Write a signed copy of `source`; pictures and sound in it are the same bytes. It is read back and checked.

    Raises ProvenanceError; leaves no `target` behind when it does.
    """
    try:
        with c2pa.Context.from_dict(OFFLINE) as context:
            _sign(source, target, claim, credentials, context)
            state = _state(target, claim.mime, context)
    except (c2pa.C2paError, OSError) as error:
        target.unlink(missing_ok=True)
        raise ProvenanceError(f"The result could not be signed ({_reason(error)}).") from error
    if state not in ("Valid", "Trusted"):
        target.unlink(missing_ok=True)
        raise ProvenanceError("The result was signed, but its signature does not verify.")


def _sign(source: Path, target: Path, claim: ProvenanceClaim, credentials: Credentials, context: c2pa.Context) -> None:
    definition = manifest_definition(claim)
    inputs = [(VIDEO, "parentOf", claim.video)]
    inputs += [(name, "componentOf", file) for name, file in _speech_names(claim).items()]
    unread = [each for each in inputs if not _is_readable(each[2], context)]
    # Kinds that the library cannot look into are recorded as well, only without what they say of their own origin.
    definition["ingredients"] = [ingredient(*each, note="; its own provenance was not read") for each in unread]
    with c2pa.Builder(definition, context=context) as builder:
        for name, relationship, file in (each for each in inputs if each not in unread):
            with file.path.open("rb") as stream:
                builder.add_ingredient(ingredient(name, relationship, file), file.mime, stream)
        info = c2pa.C2paSignerInfo(credentials.algorithm, credentials.chain, credentials.key, None)
        with c2pa.Signer.from_info(info) as signer, source.open("rb") as plain, target.open("w+b") as signed:
            builder.sign(signer, claim.mime, plain, signed)


def _is_readable(file: InputFile, context: c2pa.Context) -> bool:
    """True where the library can look into the file: it has no manifest, or one that can be read."""
    if file.mime not in c2pa.Builder.get_supported_mime_types():
        return False
    try:
        with file.path.open("rb") as stream, c2pa.Reader(file.mime, stream, context=context) as reader:
            json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return True
    except (c2pa.C2paError, ValueError):
        return False
    return True


def _state(path: Path, mime: str, context: c2pa.Context) -> str | None:
    with path.open("rb") as stream, c2pa.Reader(mime, stream, context=context) as reader:
        return reader.get_validation_state()


def _reason(error: Exception) -> str:
    """The library's words name no files. An OSError may: only its own sentence is passed on."""
    return error.strerror or "input or output failed" if isinstance(error, OSError) else str(error).rstrip(".")[:200]


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
