"""Signing a result: file in, file out, with a C2PA manifest that names its inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import c2pa

from retalking_core.errors import OptionUnsupportedError, ProvenanceError
from retalking_core.provenance.claims import (
    SPEECH,
    VIDEO,
    InputFile,
    ProvenanceClaim,
    ingredient,
    manifest_definition,
)
from retalking_core.provenance.credentials import Credentials

# Nothing is fetched: an input may name an address for its manifest, and that address is a stranger's. No thumbnails:
# they would be pictures of a face inside every copy. Trust is the reader's business, not the signer's.
OFFLINE: dict[str, Any] = {
    "version": 1,
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": True},
    "builder": {"thumbnail": {"enabled": False}},
}
SIGNABLE = {"mp4": "video/mp4", "mov": "video/quicktime"}


def mime_of_result(container: str) -> str:
    """Raises OptionUnsupportedError for a container that can not carry a manifest."""
    if container not in SIGNABLE:
        raise OptionUnsupportedError(
            f"This service signs its results, and {container} files can not carry a signature: ask for "
            f"output.container {' or '.join(SIGNABLE)}.",
            option="output.container",
        )
    return SIGNABLE[container]


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
    inputs = [(VIDEO, "parentOf", claim.video), (SPEECH, "componentOf", claim.speech)]
    unread = [each for each in inputs if not _is_readable(each[2], context)]
    # Kinds that the library can not look into are recorded as well, only without what they say of their own origin.
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
