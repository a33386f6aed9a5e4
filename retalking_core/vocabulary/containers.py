"""Containers: which files are accepted, how they are recognized by their first bytes, and what a result can be.

The name and the content type that a caller sends prove nothing. Signatures: ISO/IEC 14496-12 (box types), RFC 8794
(EBML), RFC 9639 (FLAC), RFC 3533 (Ogg), ISO/IEC 11172-3 (MPEG audio frame header), id3.org (ID3v2), RFC 9649 (WebP),
PNG and JPEG. Recognition is the first of two looks: the worker then probes the whole file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

# Two MPEG audio frames are at most 2 x 1441 bytes.
HEAD_BYTES = 4096


@dataclass(frozen=True)
class ContainerKind:
    """A container that some input may have.

    Attributes:
        name: As reported.
        demuxer: The one FFmpeg demuxer that may read it.
        content_type: Media type of such a file.
        media: What it holds: a video (which may serve as speech, too), sound alone, or a still picture.
        browser_type: Media type that browsers play it under, where it differs.
    """

    name: str
    demuxer: str
    content_type: str
    media: Literal["video", "sound", "picture"]
    browser_type: str = ""

    @property
    def is_picture(self) -> bool:
        return self.media == "picture"

    @property
    def playable_as(self) -> str:
        return self.browser_type or self.content_type


MP4 = ContainerKind("mp4", "mov", "video/mp4", "video")
MOV = ContainerKind("mov", "mov", "video/quicktime", "video", "video/mp4")
MATROSKA = ContainerKind("matroska", "matroska", "video/x-matroska", "video", "video/webm")
WEBM = ContainerKind("webm", "matroska", "video/webm", "video")
AVI = ContainerKind("avi", "avi", "video/x-msvideo", "video")
WAV = ContainerKind("wav", "wav", "audio/wav", "sound")
MP3 = ContainerKind("mp3", "mp3", "audio/mpeg", "sound")
M4A = ContainerKind("m4a", "mov", "audio/mp4", "sound")
FLAC = ContainerKind("flac", "flac", "audio/flac", "sound")
OGG = ContainerKind("ogg", "ogg", "audio/ogg", "sound")
PNG = ContainerKind("png", "png_pipe", "image/png", "picture")
JPEG = ContainerKind("jpeg", "jpeg_pipe", "image/jpeg", "picture")
WEBP = ContainerKind("webp", "webp_pipe", "image/webp", "picture")

KINDS = (MP4, MOV, MATROSKA, WEBM, AVI, WAV, MP3, M4A, FLAC, OGG, PNG, JPEG, WEBP)

InputSlot = Literal["video", "audio", "expression"]

_ACCEPTED_MEDIA: dict[InputSlot, tuple[str, ...]] = {
    "video": ("video", "picture"),  # a face may be a still picture
    "audio": ("sound", "video"),  # speech may come from a video file
    "expression": ("picture",),
}
ACCEPTED: Mapping[InputSlot, tuple[ContainerKind, ...]] = MappingProxyType(
    {slot: tuple(kind for kind in KINDS if kind.media in media) for slot, media in _ACCEPTED_MEDIA.items()}
)
ACCEPTED_NAMES: Mapping[InputSlot, str] = MappingProxyType(
    {
        "video": "mp4, mov, mkv, webm or avi, or a still image (png, jpeg, webp)",
        "audio": "wav, mp3, flac, ogg or m4a, or a video file with speech (mp4, mov, mkv, webm, avi)",
        "expression": "png, jpeg or webp",
    }
)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

OutputContainer = Literal["mp4", "mov", "mkv"]
OUTPUT_CONTAINERS: tuple[OutputContainer, ...] = get_args(OutputContainer)


@dataclass(frozen=True)
class OutputKind:
    """A container that a result may have.

    Attributes:
        muxer: FFmpeg's name of the format.
        content_type: Media type that the result is published under.
        can_be_signed: Whether it can carry a C2PA manifest.
    """

    muxer: str
    content_type: str
    can_be_signed: bool


OUTPUTS: Mapping[OutputContainer, OutputKind] = MappingProxyType(
    {
        "mp4": OutputKind("mp4", MP4.content_type, True),
        "mov": OutputKind("mov", MOV.content_type, True),
        "mkv": OutputKind("matroska", MATROSKA.content_type, False),
    }
)

# Boxes that a QuickTime file of before `ftyp` may begin with.
_OLD_QUICKTIME = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_BRANDS = {b"qt  ": MOV, b"M4A ": M4A}
# HEIF and AVIF use the same boxes as MP4, but hold pictures that are not read.
_PICTURE_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
_RIFF_FORMS = {b"AVI ": AVI, b"WAVE": WAV, b"WEBP": WEBP}
_SIGNATURES = {
    b"fLaC": FLAC,
    b"OggS": OGG,
    b"ID3": MP3,
    b"\x89PNG\r\n\x1a\n": PNG,
    b"\xff\xd8\xff": JPEG,
}
_EBML = b"\x1aE\xdf\xa3"


def sniff(head: bytes) -> ContainerKind | None:
    """The container that begins with these bytes (`HEAD_BYTES` are enough); None when it is none that is accepted."""
    box, brand = head[4:8], head[8:12]
    if box == b"ftyp":
        return None if brand in _PICTURE_BRANDS else _BRANDS.get(brand, MP4)
    if box in _OLD_QUICKTIME:
        return MOV
    if head[:4] in (b"RIFF", b"RF64"):
        return _RIFF_FORMS.get(brand)
    if head.startswith(_EBML):
        return WEBM if b"webm" in head[:64] else MATROSKA
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            return kind
    return MP3 if _is_mpeg_audio(head) else None


_PLAYLIST = "A playlist only points at media: upload the media file itself."
_ARCHIVE = "Unpack it first."
# What begins so -> what it is, and what its sender can do.
_FOREIGN = {
    b"#EXTM3U": ("an HLS playlist", _PLAYLIST),
    b"[playlist]": ("a playlist", _PLAYLIST),
    b"ffconcat": ("a concat script", _PLAYLIST),
    b"<MPD": ("a DASH manifest", _PLAYLIST),
    b"<": ("HTML or XML", ""),
    b"PK\x03\x04": ("a ZIP archive", _ARCHIVE),
    b"\x1f\x8b": ("a gzip archive", _ARCHIVE),
    b"Rar!": ("a RAR archive", _ARCHIVE),
    b"7z\xbc\xaf": ("a 7z archive", _ARCHIVE),
    b"%PDF": ("a PDF", ""),
    b"GIF8": ("a GIF", ""),
}


def describe(head: bytes) -> tuple[str, str]:
    """What a file that `sniff` does not accept seems to be, and what its sender can do (empty: nothing special)."""
    if head[4:8] == b"ftyp":
        return "a HEIF or AVIF picture", "HEIC and AVIF pictures are not read: convert the picture to JPEG or PNG."
    stripped = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for signature, found in _FOREIGN.items():
        if stripped.startswith(signature):
            return found
    return ("text" if _is_text(head) else "data of an unknown kind"), ""


def _is_text(head: bytes) -> bool:
    """UTF-8 without NUL. A letter that the end of the sample cuts is no fault."""
    sample = head[:512]
    try:
        sample.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(head) <= 512 or error.start < 509:
            return False
    return b"\0" not in sample


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
