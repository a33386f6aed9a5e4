"""Which container a file is, from its first bytes. The name and the content type that a caller sends prove nothing.

A first look only: the worker probes the whole file. Signatures: ISO/IEC 14496-12 (box types), RFC 8794 (EBML), RFC 9639
(FLAC), RFC 3533 (Ogg), ISO/IEC 11172-3 (MPEG audio frame header), id3.org (ID3v2), RFC 9649 (WebP), PNG and JPEG.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from jobs.errors import ServiceError

Container = Literal["mp4", "matroska", "avi", "wav", "flac", "ogg", "mp3", "png", "jpeg", "webp"]
Slot = Literal["video", "audio", "expression"]

# What must be at hand for a verdict: two MPEG audio frames are at most 2 x 1441 bytes.
HEAD_BYTES = 4096

PICTURES: frozenset[Container] = frozenset({"png", "jpeg", "webp"})
FILMS: frozenset[Container] = frozenset({"mp4", "matroska", "avi"})
SOUNDS: frozenset[Container] = frozenset({"wav", "flac", "ogg", "mp3"})
# Speech may come from a video file; a face may be a still image.
ACCEPTED: dict[Slot, frozenset[Container]] = {
    "video": FILMS | PICTURES,
    "audio": SOUNDS | FILMS,
    "expression": PICTURES,
}
ANYTHING: frozenset[Container] = PICTURES | FILMS | SOUNDS
ACCEPTED_NAMES: dict[Slot, str] = {
    "video": "mp4, mov, mkv, webm or avi, or a still image (png, jpeg, webp)",
    "audio": "wav, mp3, flac, ogg or m4a, or a video file with speech (mp4, mov, mkv, webm, avi)",
    "expression": "png, jpeg or webp",
}

# Boxes that a QuickTime file of before `ftyp` may begin with.
_OLD_QUICKTIME = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
# HEIF and AVIF use the same boxes as MP4, but hold pictures that the worker does not read.
_PICTURE_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")


def recognise(head: bytes) -> Container | None:
    """The container that begins with these bytes; None when it is none that is accepted."""
    if head[4:8] == b"ftyp":
        return None if head[8:12] in _PICTURE_BRANDS else "mp4"
    if head[4:8] in _OLD_QUICKTIME:
        return "mp4"
    if head[:4] in (b"RIFF", b"RF64"):
        forms: dict[bytes, Container] = {b"AVI ": "avi", b"WAVE": "wav", b"WEBP": "webp"}
        return forms.get(head[8:12])
    for signature, container in _SIGNATURES.items():
        if head.startswith(signature):
            return container
    return "mp3" if _is_mpeg_audio(head) else None


_SIGNATURES: dict[bytes, Container] = {
    b"\x1aE\xdf\xa3": "matroska",
    b"fLaC": "flac",
    b"OggS": "ogg",
    b"ID3": "mp3",
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
}


def check_container(head: bytes, slot: Slot | None) -> Container:
    """The container that begins with these bytes. Raises container_unsupported if the slot does not accept it."""
    found = recognise(head)
    accepted: Collection[Container] = ACCEPTED[slot] if slot else ANYTHING
    if found is not None and found in accepted:
        return found
    what = f"a {found} file" if found else describe(head)
    wanted = ACCEPTED_NAMES[slot] if slot else "a video, speech or picture file"
    name = f"`{slot}` file" if slot else "file"
    raise ServiceError("container_unsupported", f"The {name} is {what}. Send {wanted}.")


def describe(head: bytes) -> str:
    """What a refused file seems to be, for the message."""
    for signature, name in _WELL_KNOWN.items():
        if head.startswith(signature):
            return name
    if head[4:8] == b"ftyp":
        return "a HEIF or AVIF picture"
    return "text" if _is_text(head) else "data of an unknown kind"


def _is_text(head: bytes) -> bool:
    """UTF-8 without NUL. A letter that the end of the sample cuts is no fault."""
    sample = head[:512]
    try:
        sample.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(head) <= 512 or error.start < 509:
            return False
    return b"\0" not in sample


_WELL_KNOWN = {
    b"#EXTM3U": "an HLS playlist",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"%PDF": "a PDF",
    b"GIF8": "a GIF",
    b"<": "HTML or XML",
    b"ffconcat": "a concat script",
}

# Bit rates in kbit/s by header field, Layer III: MPEG-1, then MPEG-2 and 2.5.
_MPEG1_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2_KBPS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def _is_mpeg_audio(head: bytes) -> bool:
    """Two Layer III frame headers, the second where the first says. One alone turns up in any random data."""
    size = _mpeg_frame_bytes(head[:4])
    if size is None:
        return False
    following = head[size : size + 4]
    return len(following) < 4 or _mpeg_frame_bytes(following) is not None


def _mpeg_frame_bytes(header: bytes) -> int | None:
    """Length of the frame with this 4-byte header, or None when it is no Layer III header."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    rate_field, hz_field, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer != 1 or rate_field in (0, 15) or hz_field == 3:
        return None
    kbps = (_MPEG1_KBPS if version == 3 else _MPEG2_KBPS)[rate_field]
    return (144 if version == 3 else 72) * kbps * 1000 // _RATES_HZ[version][hz_field] + padding
