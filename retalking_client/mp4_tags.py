"""Tags of an MP4 or MOV file (title, comment), parsed from its boxes without a media library (ISO 14496-12; QuickTime
`keys` and `ilst`)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from retalking_client.codes import MediaUnreadableError

_MOST_META_BYTES = 1 << 20
_FOUR_LETTERS = {b"\xa9nam": "title", b"\xa9cmt": "comment", b"\xa9too": "encoder", b"desc": "description"}
_TEXT = 1  # type of a `data` box that holds UTF-8

Box = tuple[bytes, int, int]
"""Four-character type, and the byte offsets at which the content starts and ends."""


def read_tags(path: Path) -> dict[str, str]:
    """Tags by lower-case name. Raises MediaUnreadableError for boxes that exceed the file."""
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
