"""Opening files that strangers sent: the kind is read from the bytes, the demuxer is forced, nothing else is opened."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import av
from av.container import InputContainer
from av.stream import Discard, Disposition

from retalking_core.errors import EmptyFileError, PictureTooLargeError, TooManyStreamsError, UnsupportedContainerError
from retalking_core.media.faults import reading
from retalking_core.media.limits import MediaLimits
from retalking_core.media.picture_header import read_picture_header


@dataclass(frozen=True)
class ContainerKind:
    """name: as reported; demuxer: the one FFmpeg demuxer that may read it."""

    name: str
    demuxer: str
    is_picture: bool = False


MP4 = ContainerKind("mp4", "mov")
MOV = ContainerKind("mov", "mov")
M4A = ContainerKind("m4a", "mov")
MATROSKA = ContainerKind("matroska", "matroska")
WEBM = ContainerKind("webm", "matroska")
AVI = ContainerKind("avi", "avi")
WAV = ContainerKind("wav", "wav")
MP3 = ContainerKind("mp3", "mp3")
FLAC = ContainerKind("flac", "flac")
OGG = ContainerKind("ogg", "ogg")
PNG = ContainerKind("png", "png_pipe", is_picture=True)
JPEG = ContainerKind("jpeg", "jpeg_pipe", is_picture=True)
WEBP = ContainerKind("webp", "webp_pipe", is_picture=True)

_ACCEPTED = "MP4, MOV, MKV, WebM, AVI, WAV, MP3, M4A, FLAC, OGG, PNG, JPEG and WebP are accepted"
# Boxes that open a QuickTime file older than `ftyp`.
_QUICKTIME_BOXES = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip"})
_PICTURE_BRANDS = frozenset({b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1"})
# Codecs of still pictures. FFmpeg decodes a first picture of every stream to learn what a file holds, cover pictures
# too: a song of 12 MB with covers took 161 s and 7.3 GB, at each look. A film in one of these codecs states its size in
# the container, so nothing is lost by not decoding them then. JPEG is missing: of it FFmpeg reads the header alone.
_STILL_CODECS = frozenset(
    {"png", "apng", "gif", "bmp", "tiff", "webp", "webp_anim", "jpegls", "jpeg2000", "jpegxl", "qoi"}
)
HEAD_BYTES = 4096
# A WAV header says all there is to know; FFmpeg would decode 5 MB of samples to learn no more (16 ms for 5 s of speech,
# at each of a render's four looks at it; so 2 ms).
_WAV_PROBE_BYTES = "65536"


class MediaFile:
    """An open container and its kind; a context manager. Owns the file handle.

    orientation: EXIF orientation 1..8 of a picture, 1 for everything else.
    """

    def __init__(self, kind: ContainerKind, handle: BinaryIO, container: InputContainer, orientation: int = 1) -> None:
        self.kind = kind
        self.container = container
        self.orientation = orientation
        self._handle = handle

    def close(self) -> None:
        self.container.close()
        self._handle.close()

    def __enter__(self) -> MediaFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_container(path: Path, limits: MediaLimits) -> MediaFile:
    """Open a local media file with the one demuxer its first bytes call for.

    Raises EmptyFileError, UnsupportedContainerError, PictureTooLargeError, TooManyStreamsError, MediaUnreadableError.
    """
    handle = path.open("rb")
    try:
        kind = _sniff_handle(handle)
        orientation = 1
        if kind.is_picture:
            width, height, orientation = read_picture_header(handle, kind.name)
            check_picture_size(width, height, limits)
        handle.seek(0)
        with reading("file"):
            container = _open_forced(handle, kind, limits)
    except BaseException:
        handle.close()
        raise
    for stream in container.streams.video:
        if stream.disposition & Disposition.attached_pic:
            stream.discard = Discard.all
    media = MediaFile(kind, handle, container, orientation)
    streams = len(container.streams)
    if streams > limits.max_streams:
        media.close()
        raise TooManyStreamsError(f"The file holds {streams} streams; at most {limits.max_streams} are allowed.")
    return media


def sniff_kind(head: bytes) -> ContainerKind:
    """The kind of container from the first bytes of a file (4096 are enough). Raises UnsupportedContainerError."""
    kind = _sniff_boxes(head) or _sniff_signature(head) or _sniff_mp3(head)
    if kind is not None:
        return kind
    stripped = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if stripped.startswith(b"#EXTM3U"):
        what = "a playlist (HLS), not a media file; upload the media file itself"
    elif stripped.startswith((b"<?xml", b"<MPD", b"ffconcat", b"[playlist]")):
        what = "a playlist or manifest, not a media file; upload the media file itself"
    elif head.startswith((b"PK\x03\x04", b"\x1f\x8b", b"Rar!", b"7z\xbc\xaf")):
        what = "an archive; unpack it first"
    else:
        what = "not a known media file, whatever its name says"
    raise UnsupportedContainerError(f"This is {what}. {_ACCEPTED}.")


def check_picture_size(width: int, height: int, limits: MediaLimits) -> None:
    """Raises PictureTooLargeError."""
    if max(width, height) > limits.max_side_px or width * height > limits.max_picture_px:
        raise PictureTooLargeError(
            f"The picture is {width}x{height}; at most {limits.max_side_px} pixels a side and "
            f"{limits.max_picture_px / 1e6:.0f} megapixels are allowed. Scale it down.",
            width=width,
            height=height,
        )


def _sniff_handle(handle: BinaryIO) -> ContainerKind:
    head = handle.read(HEAD_BYTES)
    if not head:
        raise EmptyFileError("The file is empty (0 bytes); upload it again.")
    return sniff_kind(head)


def _sniff_boxes(head: bytes) -> ContainerKind | None:
    box, brand = head[4:8], head[8:12]
    if box == b"ftyp":
        if brand in _PICTURE_BRANDS:
            raise UnsupportedContainerError("HEIC and AVIF pictures are not read; convert the picture to JPEG or PNG.")
        return {b"qt  ": MOV, b"M4A ": M4A}.get(brand, MP4)
    return MOV if box in _QUICKTIME_BOXES else None


def _sniff_signature(head: bytes) -> ContainerKind | None:
    if head[:4] in (b"RIFF", b"RF64"):
        return {b"WAVE": WAV, b"AVI ": AVI, b"WEBP": WEBP}.get(head[8:12])
    if head.startswith(b"\x1aE\xdf\xa3"):
        return WEBM if b"webm" in head[:64] else MATROSKA
    signatures = {b"fLaC": FLAC, b"OggS": OGG, b"\x89PNG\r\n\x1a\n": PNG, b"\xff\xd8\xff": JPEG, b"ID3": MP3}
    return next((kind for signature, kind in signatures.items() if head.startswith(signature)), None)


def _sniff_mp3(head: bytes) -> ContainerKind | None:
    """MPEG audio without a tag: sync word, layer III, a bit rate and a sample rate that exist (ISO 11172-3)."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    return MP3 if head[2] >> 4 not in (0, 15) and (head[2] >> 2) & 3 != 3 and (head[1] >> 3) & 3 != 1 else None


def _open_forced(handle: BinaryIO, kind: ContainerKind, limits: MediaLimits) -> InputContainer:
    options = {
        # Holds while FFmpeg itself decodes a first picture to learn the pixel format. Wider than the limit, because
        # beyond it FFmpeg also forgets the size that the error message names.
        "max_pixels": str(4 * limits.max_picture_px),
        "max_streams": str(limits.max_streams + 64),
        "protocol_whitelist": "",
    }
    if kind.demuxer == "mov":
        options |= {"enable_drefs": "0", "use_absolute_path": "0"}
    elif kind is WAV:
        options["probesize"] = _WAV_PROBE_BYTES
    if not kind.is_picture:
        options["codec_whitelist"] = _moving_codecs()
    return av.open(
        handle,
        mode="r",
        format=kind.demuxer,
        options=options,
        metadata_errors="replace",
        buffer_size=256 * 1024,
        io_open=_refuse_nested,
    )


@cache
def _moving_codecs() -> str:
    """Everything but `_STILL_CODECS`, in FFmpeg's notation. Holds for FFmpeg's own first look only."""
    return ",".join(sorted(av.codecs_available - _STILL_CODECS))


def _refuse_nested(*_: Any) -> BinaryIO:
    """A container that points at another file or address gets nothing."""
    raise PermissionError("nested files are not opened")
