"""Read the C2PA manifest and the tags of a video, and validate its signature. Needs c2pa-python (extra `inspect`)."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import c2pa

from retalking_client.codes import ContainerUnsupportedError, MediaUnreadableError

# A file may name a URL for its manifest; that URL is a stranger's.
_OFFLINE = {"version": 1, "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}

State = Literal["trusted", "valid", "invalid"]
_STATES: dict[str, State] = {"Trusted": "trusted", "Valid": "valid", "Invalid": "invalid"}
# Plain sentences for the common problems; the others keep the library's explanation.
_SENTENCES = {
    "assertion.bmffHash.mismatch": "The video, the audio or their index changed after the file was signed.",
    "assertion.hashedURI.mismatch": "The manifest changed after the file was signed.",
    "claimSignature.mismatch": "The signature does not match the manifest.",
    "signingCredential.untrusted": "No trusted authority issued the signer's certificate.",
    "signingCredential.expired": "The signer's certificate had expired.",
}


@dataclass(frozen=True)
class Action:
    """One step of production. source_type: last path segment of an IPTC digital source type."""

    action: str
    description: str | None = None
    source_type: str | None = None
    software: str | None = None


@dataclass(frozen=True)
class Ingredient:
    """An input file. has_provenance: it carried a manifest of its own."""

    title: str
    relationship: str
    format: str | None
    description: str | None
    has_provenance: bool


@dataclass(frozen=True)
class Manifest:
    """The newest manifest of a file. state: trusted (unchanged, signer certified by a trusted
    authority), valid (unchanged, signer unknown) or invalid. problems: (code, sentence)."""

    state: State
    signer: str | None
    issuer: str | None
    algorithm: str | None
    generator: str | None
    actions: list[Action] = field(default_factory=list)
    ingredients: list[Ingredient] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Provenance:
    """tags: title, comment and others of the container. manifest: None if the file is not signed."""

    mime: str
    tags: dict[str, str]
    manifest: Manifest | None

    @property
    def says_synthetic(self) -> bool:
        words = " ".join(self.tags.values()).lower()
        kinds = {action.source_type for action in self.manifest.actions} if self.manifest else set()
        return "synthetic media" in words or bool(kinds & {"composite", "compositeWithTrainedAlgorithmicMedia"})


def read_provenance(path: Path, trusted: bytes | None = None) -> Provenance:
    """Read and validate; nothing is fetched. trusted: PEM of the authorities to trust.

    Raises ContainerUnsupportedError for a file that is neither MP4 nor MOV, MediaUnreadableError for a damaged one.
    """
    mime = _mime_of(path)
    settings: dict[str, Any] = dict(_OFFLINE)
    if trusted is not None:
        settings["trust"] = {"user_anchors": trusted.decode("utf-8", "replace")}
    return Provenance(mime, read_tags(path), _read_manifest(path, mime, settings))


def _mime_of(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] != b"ftyp":
        raise ContainerUnsupportedError("Only MP4 and MOV files can be inspected; this file is neither.")
    return "video/quicktime" if head[8:12] == b"qt  " else "video/mp4"


def _read_manifest(path: Path, mime: str, settings: dict[str, Any]) -> Manifest | None:
    try:
        with (
            c2pa.Context.from_dict(settings) as context,
            path.open("rb") as stream,
            c2pa.Reader(mime, stream, context=context) as reader,
        ):
            store = json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return None
    except c2pa.C2paError as error:
        return Manifest("invalid", None, None, None, None, problems=[("manifest.unreadable", str(error))])
    return _manifest_of(store)


def _manifest_of(store: dict[str, Any]) -> Manifest:
    active = store["manifests"][store["active_manifest"]]
    signature = active.get("signature_info", {})
    generators = active.get("claim_generator_info") or [{}]
    return Manifest(
        state=_STATES.get(store.get("validation_state", ""), "invalid"),
        signer=signature.get("common_name"),
        issuer=signature.get("issuer"),
        algorithm=signature.get("alg"),
        generator=" ".join(filter(None, (generators[0].get("name"), generators[0].get("version")))) or None,
        actions=[_action_of(entry) for entry in _actions(active)],
        ingredients=[_ingredient_of(entry) for entry in active.get("ingredients", [])],
        problems=[
            (entry["code"], _SENTENCES.get(entry["code"]) or entry.get("explanation") or entry["code"])
            for entry in store.get("validation_status", [])
        ],
    )


def _actions(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    found = [each for each in manifest.get("assertions", []) if each["label"].startswith("c2pa.actions")]
    return [action for each in found for action in each["data"].get("actions", [])]


def _action_of(entry: dict[str, Any]) -> Action:
    agent = entry.get("softwareAgent")
    return Action(
        action=entry["action"],
        description=entry.get("description"),
        source_type=(entry.get("digitalSourceType") or "").rpartition("/")[2] or None,
        software=agent.get("name") if isinstance(agent, dict) else agent,
    )


def _ingredient_of(entry: dict[str, Any]) -> Ingredient:
    return Ingredient(
        title=entry.get("title", "(unnamed)"),
        relationship=entry.get("relationship", ""),
        format=entry.get("format"),
        description=entry.get("description"),
        has_provenance="active_manifest" in entry,
    )


_MOST_META_BYTES = 1 << 20
_FOUR_LETTERS = {b"\xa9nam": "title", b"\xa9cmt": "comment", b"\xa9too": "encoder", b"desc": "description"}
_TEXT = 1  # type of a `data` box that holds UTF-8

Box = tuple[bytes, int, int]
"""Four-character type, and the byte offsets at which the content starts and ends."""


def read_tags(path: Path) -> dict[str, str]:
    """Tags of an MP4 or MOV file (title, comment) by lower-case name, parsed without a media library.

    Boxes: ISO/IEC 14496-12; `keys` and `ilst`: QuickTime File Format. Raises MediaUnreadableError for boxes that exceed
    the file.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        tags: dict[str, str] = {}
        for moov in _boxes(file, 0, size, b"moov"):
            holders = [moov, *_boxes(file, moov[1], moov[2], b"udta")]
            for holder in holders:
                for meta in _boxes(file, holder[1], holder[2], b"meta"):
                    tags |= _tags_of(_content(file, meta))
        return tags


def _boxes(file: BinaryIO, start: int, end: int, wanted: bytes) -> Iterator[Box]:
    place = start
    while place + 8 <= end:
        file.seek(place)
        length, letters = struct.unpack(">I4s", file.read(8))
        head = 8
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8).ljust(8, b"\0"))
            head = 16
        length = length or end - place  # 0: to the end
        if length < head or place + length > end:
            raise MediaUnreadableError("The file is truncated or damaged: one of its boxes exceeds the file.")
        if letters == wanted:
            yield letters, place + head, place + length
        place += length


def _content(file: BinaryIO, box: Box) -> bytes:
    _, start, end = box
    if end - start > _MOST_META_BYTES:
        raise MediaUnreadableError("The tags of the file are larger than 1 MB.")
    file.seek(start)
    return file.read(end - start)


def _inside(content: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    place = 0
    while place + 8 <= len(content):
        length, letters = struct.unpack_from(">I4s", content, place)
        if length < 8 or place + length > len(content):
            break
        found.setdefault(letters, content[place + 8 : place + length])
        place += length
    return found


def _tags_of(meta: bytes) -> dict[str, str]:
    # MP4 puts four bytes of version and flags before the first box, QuickTime does not.
    parts = _inside(meta) if meta[4:8] == b"hdlr" else _inside(meta[4:])
    names = _key_names(parts.get(b"keys", b""))
    tags = {}
    for letters, entry in _inside(parts.get(b"ilst", b"")).items():
        name = _FOUR_LETTERS.get(letters) or names.get(int.from_bytes(letters, "big"))
        data = _inside(entry).get(b"data", b"")
        if name and len(data) >= 8 and int.from_bytes(data[:4], "big") == _TEXT:
            tags[name] = data[8:].decode("utf-8", "replace")
    return tags


def _key_names(keys: bytes) -> dict[int, str]:
    """`keys` numbers its names from 1; `ilst` refers to them by these numbers."""
    names: dict[int, str] = {}
    place = 8
    while place + 8 <= len(keys):
        (length,) = struct.unpack_from(">I", keys, place)
        if length < 8:
            break
        names[len(names) + 1] = keys[place + 8 : place + length].decode("utf-8", "replace").lower()
        place += length
    return names
