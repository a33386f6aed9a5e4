"""Width and height of a still picture from its header alone, so that a picture bomb is refused before it is decoded."""

from __future__ import annotations

import struct
from typing import BinaryIO

from retalking_core.errors import MediaUnreadableError

# JPEG frame headers: SOF0..SOF15 without DHT (C4), JPG (C8) and DAC (CC), ITU-T T.81 table B.1.
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_STANDALONE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})


def read_picture_size(handle: BinaryIO, kind: str) -> tuple[int, int]:
    """(width, height) px as stored, before any EXIF turn. kind: png, jpeg or webp. Raises MediaUnreadableError."""
    handle.seek(0)
    readers = {"png": _png_size, "jpeg": _jpeg_size, "webp": _webp_size}
    try:
        width, height = readers[kind](handle)
    except (struct.error, IndexError) as error:
        raise _broken(kind) from error
    if width < 2 or height < 2:
        raise MediaUnreadableError(f"The {kind.upper()} picture is {width}x{height}; it needs at least 2x2 pixels.")
    return width, height


def _broken(kind: str) -> MediaUnreadableError:
    return MediaUnreadableError(f"The {kind.upper()} picture ends inside its header; upload the whole file again.")


def _png_size(handle: BinaryIO) -> tuple[int, int]:
    head = handle.read(24)
    if head[12:16] != b"IHDR":
        raise _broken("png")
    return struct.unpack(">II", head[16:24])


def _jpeg_size(handle: BinaryIO) -> tuple[int, int]:
    handle.read(2)
    while True:
        byte = handle.read(1)
        if not byte:
            raise _broken("jpeg")
        if byte != b"\xff":
            continue
        marker = handle.read(1)
        while marker == b"\xff":
            marker = handle.read(1)
        code = marker[0]
        if code == 0 or code in _JPEG_STANDALONE_MARKERS:
            continue
        (length,) = struct.unpack(">H", handle.read(2))
        if code in _JPEG_FRAME_MARKERS:
            height, width = struct.unpack(">xHH", handle.read(5))
            return width, height
        handle.seek(max(length - 2, 0), 1)


def _webp_size(handle: BinaryIO) -> tuple[int, int]:
    head = handle.read(30)
    chunk = head[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if chunk == b"VP8L":
        bits = struct.unpack("<I", head[21:25])[0]
        return 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF)
    width, height = struct.unpack("<HH", head[26:30])
    return width & 0x3FFF, height & 0x3FFF
