"""Containers: which files are accepted, how they are recognized by their first bytes, and what a result can be.

The name and the content type that a caller sends prove nothing. Signatures: ISO/IEC 14496-12 (box types), 23008-12
(HEIF brands), RFC 8794 (EBML), RFC 9639 (FLAC), RFC 3533 (Ogg), ISO/IEC 11172-3 (MPEG audio frame header), 13818-7
(ADTS), id3.org (ID3v2), RFC 4867 (AMR), AIFF, CAF, RFC 9649 (WebP), PNG and JPEG. Recognition is the first of two
looks: the worker then probes the whole file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

# Zeros or junk before the first frame of an MP3 are skipped as far as this; a frame has at most 1441 bytes.
HEAD_BYTES = 16384


@dataclass(frozen=True)
class ContainerKind:
    """A container that some input may have.

    Attributes:
        name: As reported.
        demuxer: The one FFmpeg demuxer that may read it; empty where Pillow reads it.
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
AAC = ContainerKind("aac", "aac", "audio/aac", "sound")
AIFF = ContainerKind("aiff", "aiff", "audio/aiff", "sound")
AMR = ContainerKind("amr", "amr", "audio/amr", "sound")
CAF = ContainerKind("caf", "caf", "audio/x-caf", "sound")
PNG = ContainerKind("png", "png_pipe", "image/png", "picture")
JPEG = ContainerKind("jpeg", "jpeg_pipe", "image/jpeg", "picture")
WEBP = ContainerKind("webp", "webp_pipe", "image/webp", "picture")
HEIC = ContainerKind("heic", "", "image/heic", "picture")
AVIF = ContainerKind("avif", "", "image/avif", "picture")

KINDS = (MP4, MOV, MATROSKA, WEBM, AVI, WAV, MP3, M4A, FLAC, OGG, AAC, AIFF, AMR, CAF, PNG, JPEG, WEBP, HEIC, AVIF)

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
        "video": "mp4, mov, mkv, webm or avi, or a still image (png, jpeg, webp, heic, avif)",
        "audio": "wav, mp3, flac, ogg, m4a, aac, aiff, amr or caf, or a video with speech (mp4, mov, mkv, webm, avi)",
        "expression": "png, jpeg, webp, heic or avif",
    }
)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".heic", ".heif", ".avif")

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
_BRANDS = {b"qt  ": MOV, b"M4A ": M4A, b"M4B ": M4A, b"avif": AVIF}
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2")
_SEQUENCE_BRANDS = (b"avis", b"msf1", b"hevc", b"hevx", b"hevm", b"hevs")
_RIFF_FORMS = {b"AVI ": AVI, b"WAVE": WAV, b"WEBP": WEBP}
_IFF_FORMS = {b"AIFF": AIFF, b"AIFC": AIFF}
_PNG = b"\x89PNG\r\n\x1a\n"
_SIGNATURES = {
    b"fLaC": FLAC,
    b"OggS": OGG,
    b"caff": CAF,
    b"#!AMR\n": AMR,
    b"#!AMR-WB\n": AMR,
    _PNG: PNG,
    b"\xff\xd8\xff": JPEG,
}
_EBML = b"\x1aE\xdf\xa3"


def sniff(head: bytes) -> ContainerKind | None:
    """The container that begins with these bytes (`HEAD_BYTES` are enough); None when it is none that is accepted.

    Where a tag before the sound is longer than `head`, the answer is MP3; `locate` looks behind it.
    """
    start = tag_bytes(head)
    return MP3 if start >= len(head) > 0 else _sniff_untagged(head[start:])


def locate(read: Callable[[int, int], bytes]) -> tuple[int, ContainerKind | None]:
    """(offset of the media behind tags and junk, its container or None). read: (offset, bytes) -> what is there."""
    offset = 0
    while (length := tag_bytes(read(offset, 10))) and offset < _MAX_TAG_BYTES:
        offset += length
    head = read(offset, HEAD_BYTES)
    kind = _sniff_untagged(head)
    if kind in (MP3, AAC):
        offset += _first_frame(head)[0]
    return offset, kind


# An ID3v2 tag states up to 256 MB; pictures of an album are never so large.
_MAX_TAG_BYTES = 64 * 1024 * 1024


def tag_bytes(head: bytes) -> int:
    """Length of the ID3v2 tag that `head` begins with, 0 without one (id3.org, ID3v2.4 section 3.1)."""
    if len(head) < 10 or head[:3] != b"ID3" or head[3] == 0xFF or head[4] == 0xFF or max(head[6:10]) > 0x7F:
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    has_footer = head[5] & 0x10
    return 10 + size + (10 if has_footer else 0)


def _sniff_untagged(head: bytes) -> ContainerKind | None:
    box, brand = head[4:8], head[8:12]
    if box == b"ftyp":
        return _sniff_brand(head)
    if box in _OLD_QUICKTIME:
        return MOV
    if head[:4] in (b"RIFF", b"RF64"):
        found = _RIFF_FORMS.get(brand)
    elif head[:4] == b"FORM":
        found = _IFF_FORMS.get(brand)
    elif head.startswith(_EBML):
        found = WEBM if b"webm" in head[:64] else MATROSKA
    else:
        found = next((kind for signature, kind in _SIGNATURES.items() if head.startswith(signature)), None)
        if found is None and _foreign(head) is None:
            found = _first_frame(head)[1]
    return None if found in (PNG, WEBP) and _is_animated(head) else found


def _sniff_brand(head: bytes) -> ContainerKind | None:
    brand = head[8:12]
    if brand in _SEQUENCE_BRANDS:
        return None
    if brand in _HEIC_BRANDS:
        return AVIF if b"avif" in _compatible_brands(head) else HEIC
    return _BRANDS.get(brand, MP4)


def _compatible_brands(head: bytes) -> list[bytes]:
    size = min(int.from_bytes(head[:4], "big"), len(head))
    return [head[at : at + 4] for at in range(16, size - 3, 4)]


def _is_animated(head: bytes) -> bool:
    """The animation flag of VP8X (RFC 9649, 2.7), or an acTL chunk before the first IDAT (PNG, third edition)."""
    if head[:4] == b"RIFF":
        return head[12:16] == b"VP8X" and len(head) > 20 and bool(head[20] & 0x02)
    at = len(_PNG)
    while at + 8 <= len(head):
        length, name = struct.unpack_from(">I4s", head, at)
        if name in (b"acTL", b"IDAT"):
            return name == b"acTL"
        at += 12 + length
    return False


_PLAYLIST = "A playlist only points at media: upload the media file itself."
_ARCHIVE = "Unpack it first."
_TO_MP4 = "Convert it to MP4 (H.264)."
_TO_SOUND = "Convert it to WAV, FLAC or MP3."
_TO_PICTURE = "Convert it to JPEG or PNG."
_ANIMATION = "Convert the animation to MP4, or send one picture of it as PNG or JPEG."
_DOCUMENT = "Send the video, sound or picture itself."
# What begins so -> what it is, and what its sender can do.
_FOREIGN = {
    b"#EXTM3U": ("an HLS playlist", _PLAYLIST),
    b"[playlist]": ("a playlist", _PLAYLIST),
    b"ffconcat": ("a concat script", _PLAYLIST),
    b"<MPD": ("a DASH manifest", _PLAYLIST),
    b"<": ("HTML or XML", _DOCUMENT),
    b"PK\x03\x04": ("a ZIP archive", _ARCHIVE),
    b"\x1f\x8b": ("a gzip archive", _ARCHIVE),
    b"Rar!": ("a RAR archive", _ARCHIVE),
    b"7z\xbc\xaf": ("a 7z archive", _ARCHIVE),
    b"%PDF": ("a PDF", _DOCUMENT),
    b"{\\rtf": ("an RTF document", _DOCUMENT),
    b"\xd0\xcf\x11\xe0": ("an Office document", _DOCUMENT),
    b"MZ": ("a Windows program", _DOCUMENT),
    b"\x7fELF": ("a program", _DOCUMENT),
    b"GIF8": ("a GIF", _ANIMATION),
    b"BM": ("a BMP picture", _TO_PICTURE),
    b"II*\0": ("a TIFF or camera raw picture", _TO_PICTURE),
    b"MM\0*": ("a TIFF or camera raw picture", _TO_PICTURE),
    b"8BPS": ("a Photoshop document", _TO_PICTURE),
    b"\xff\x0a": ("a JPEG XL picture", _TO_PICTURE),
    b"\0\0\0\x0cJXL ": ("a JPEG XL picture", _TO_PICTURE),
    b"\0\0\0\x0cjP  ": ("a JPEG 2000 picture", _TO_PICTURE),
    b"\xffO\xffQ": ("a JPEG 2000 picture", _TO_PICTURE),
    b"\0\0\1\0": ("a Windows icon", _TO_PICTURE),
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": ("a WMA or WMV (ASF) file", "Convert sound to WAV or MP3, video to MP4."),
    b"FLV\x01": ("an FLV video", _TO_MP4),
    b"\0\0\1\xba": ("an MPEG program stream (MPG, VOB)", _TO_MP4),
    b"\0\0\1\xb3": ("an MPEG video stream", _TO_MP4),
    b"\0\0\0\1": ("a raw H.264 or H.265 stream", _TO_MP4),
    b"\x06\x0e\x2b\x34": ("an MXF file", _TO_MP4),
    b"\x1f\x07\0": ("a raw DV stream", _TO_MP4),
    b"DKIF": ("an IVF video", _TO_MP4),
    b"YUV4MPEG2": ("a YUV4MPEG video", _TO_MP4),
    b".RMF": ("a RealMedia file", "Convert sound to WAV or MP3, video to MP4."),
    b".snd": ("an AU sound file", _TO_SOUND),
    b"wvpk": ("a WavPack sound file", _TO_SOUND),
    b"MAC ": ("a Monkey's Audio file", _TO_SOUND),
    b"TTA": ("a True Audio file", _TO_SOUND),
    b"MPCK": ("a Musepack file", _TO_SOUND),
    b"MP+": ("a Musepack file", _TO_SOUND),
    b"DSD ": ("a DSD sound file", _TO_SOUND),
    b"FRM8": ("a DSD sound file", _TO_SOUND),
    b"MThd": ("a MIDI file, which holds notes and no sound", _TO_SOUND),
    b"\x0bw": ("an AC-3 sound file", _TO_SOUND),
    b"\x7f\xfe\x80\x01": ("a DTS sound file", _TO_SOUND),
    b"#!AMR_MC": ("an AMR file of several channels", _TO_SOUND),
    b"#!AMR-WB_MC": ("an AMR file of several channels", _TO_SOUND),
    b"#!SILK": ("a SILK voice message", _TO_SOUND),
    b"\x02#!SILK": ("a SILK voice message", _TO_SOUND),
    b"riff\x2e\x91": ("a Wave64 file", _TO_SOUND),
}
# Pictures of accepted kinds that move.
ANIMATIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {WEBP.name: ("an animated WebP", _ANIMATION), PNG.name: ("an animated PNG (APNG)", _ANIMATION)}
)
_MPEG_TS_BYTES = (188, 192)


def describe(head: bytes) -> tuple[str, str]:
    """What a file that `sniff` does not accept seems to be, and what its sender can do (empty: nothing special)."""
    head = head[tag_bytes(head) :]
    if head[4:8] == b"ftyp":
        return ("an animated AVIF" if head[8:12] == b"avis" else "a HEIF image sequence"), _ANIMATION
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ANIMATIONS[WEBP.name]
    if head.startswith(_PNG):
        return ANIMATIONS[PNG.name]
    return _foreign(head) or (("text" if _is_text(head) else "data of an unknown kind"), "")


def refusal(found: tuple[str, str]) -> str:
    """The sentences that refuse a file. found: as `describe` gives it."""
    what, advice = found
    accepted = f"Accepted are {ACCEPTED_NAMES['video']}; for speech {ACCEPTED_NAMES['audio']}."
    return " ".join(filter(None, (f"This is {what}, which is not accepted.", advice, accepted)))


def _foreign(head: bytes) -> tuple[str, str] | None:
    stripped = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for begin in (head, stripped):
        for signature, found in _FOREIGN.items():
            if begin.startswith(signature):
                return found
    for size in _MPEG_TS_BYTES:
        first = size - 188
        if len(head) > 3 * size and all(head[first + k * size] == 0x47 for k in range(3)):
            return "an MPEG transport stream (TS, MTS, M2TS)", _TO_MP4
    return None


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


# Frames that must follow one another: one alone turns up in any random data, and two behind a few kilobytes of junk.
_FRAMES_AT_START, _FRAMES_BEHIND_JUNK = 2, 4


def _first_frame(head: bytes) -> tuple[int, ContainerKind | None]:
    """(offset, kind) of the first frame of MP3 or ADTS AAC: headers that each stand where the one before says. Zeros or
    junk may precede them."""
    at = 0
    while (at := head.find(b"\xff", at)) >= 0:
        for kind, frame_bytes in ((MP3, _mpeg_frame_bytes), (AAC, _adts_frame_bytes)):
            if _has_frames(head, at, frame_bytes):
                return at, kind
        at += 1
    return 0, None


def _has_frames(head: bytes, at: int, frame_bytes: Callable[[bytes], int | None]) -> bool:
    """Whether enough frames follow one another from here; the end of a short file may cut the last one, but for junk
    before the first."""
    needed = _FRAMES_BEHIND_JUNK if at else _FRAMES_AT_START
    start = at
    for _ in range(needed):
        if len(head) - at < 7 and at > start:
            return start == 0
        size = frame_bytes(head[at : at + 7])
        if size is None:
            return False
        at += size
    return True


def is_one_frame(data: bytes) -> bool:
    """Whether these bytes are as long as the header of MP3 or ADTS AAC that they begin with says."""
    return len(data) in (_mpeg_frame_bytes(data[:7]), _adts_frame_bytes(data[:7]))


def _adts_frame_bytes(header: bytes) -> int | None:
    """Length of the AAC frame with this 7-byte header (ISO/IEC 13818-7, 6.2), or None when it is no ADTS header."""
    if len(header) < 7 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0:
        return None
    size = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return size if header[2] >> 2 & 15 <= 12 and size > 7 else None


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
