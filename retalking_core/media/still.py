"""Stills that FFmpeg would show in wrong colors or cannot read: converted to sRGB by Pillow with LittleCMS.

Display P3, Adobe RGB, CMYK and other ICC profiles; HEIC and AVIF. Every other still is left to FFmpeg, which gives its
planes as they are stored.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import av

from retalking_core.errors import MediaUnreadableError, PictureTooLargeError, UnsupportedContainerError
from retalking_core.notes import Note
from retalking_core.vocabulary.containers import ANIMATIONS, AVIF, HEIC, JPEG, ContainerKind, refusal

if TYPE_CHECKING:
    from PIL import Image


# JPEG frame headers: SOF0..SOF15 without DHT (C4), JPG (C8) and DAC (CC), ITU-T T.81 table B.1.
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_STANDALONE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_APP1, _JPEG_APP2 = 0xE1, 0xE2
_JPEG_END = b"\xff\xd9"
_EXIF_PREFIX, _ICC_PREFIX = b"Exif\0\0", b"ICC_PROFILE\0"
_ORIENTATION_TAG = 0x0112
# EXIF types SHORT, as the standard asks for, and LONG, as some editors write.
_EXIF_INTEGERS = {3: "H", 4: "I"}
# EXIF may follow the pixels of a PNG, which come in chunks of 8 kB.
_MAX_CHUNKS = 65536
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class PictureHeader:
    """width, height: as stored, in pixels. orientation: EXIF, 1..8. is_animated: APNG or animated WebP.

    has_profile: the picture has an ICC profile. is_cmyk: a JPEG of four components. has_end: False for a JPEG without
    the marker that ends it, so that it may be cut.
    """

    width: int
    height: int
    orientation: int
    is_animated: bool = False
    has_profile: bool = False
    is_cmyk: bool = False
    has_end: bool = True


def read_picture_header(handle: BinaryIO, kind: str) -> PictureHeader:
    """kind: png, jpeg or webp. Raises MediaUnreadableError."""
    handle.seek(0)
    readers = {"png": _read_png, "jpeg": _read_jpeg, "webp": _read_webp}
    try:
        header = readers[kind](handle)
    except (struct.error, IndexError) as error:
        raise _broken(kind) from error
    if header.width < 1 or header.height < 1:
        raise MediaUnreadableError(f"The {kind.upper()} picture is {header.width}x{header.height}; it holds no pixels.")
    return header


def exif_orientation(exif: bytes) -> int:
    """The orientation 1..8 in a block of EXIF data (TIFF); 1 where it is absent or damaged."""
    exif = exif.removeprefix(_EXIF_PREFIX)
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(count):
            tag, kind = struct.unpack_from(order + "HH", exif, start + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG and kind in _EXIF_INTEGERS:
                (value,) = struct.unpack_from(order + _EXIF_INTEGERS[kind], exif, start + 10 + 12 * entry)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _holds(handle: BinaryIO, wanted: bytes) -> bool:
    """Whether the rest of the file has these bytes somewhere; reads it in blocks."""
    end = b""
    while block := handle.read(_BLOCK_BYTES):
        if wanted in end + block:
            return True
        end = block[1 - len(wanted) :]
    return False


def _broken(kind: str) -> MediaUnreadableError:
    return MediaUnreadableError(f"The {kind.upper()} picture ends inside its header; upload the whole file again.")


def _read_png(handle: BinaryIO) -> PictureHeader:
    head = handle.read(24)
    if head[12:16] != b"IHDR":
        raise _broken("png")
    width, height = struct.unpack(">II", head[16:24])
    handle.seek(8)
    chunks = _find_chunks(handle, (b"eXIf", b"acTL", b"iCCP"), ">I4s", trailer=4)
    return PictureHeader(
        width, height, exif_orientation(chunks.get(b"eXIf", b"")), b"acTL" in chunks, b"iCCP" in chunks
    )


def _read_jpeg(handle: BinaryIO) -> PictureHeader:
    handle.read(2)
    exif, has_profile = b"", False
    while byte := handle.read(1):
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
            height, width, components = struct.unpack(">xHHB", handle.read(6))
            return PictureHeader(
                width,
                height,
                exif_orientation(exif),
                has_profile=has_profile,
                is_cmyk=components == 4,
                has_end=_holds(handle, _JPEG_END),
            )
        body = handle.read(max(length - 2, 0))
        if code == _JPEG_APP1 and body.startswith(_EXIF_PREFIX):
            exif = body
        has_profile |= code == _JPEG_APP2 and body.startswith(_ICC_PREFIX)
    raise _broken("jpeg")


def _read_webp(handle: BinaryIO) -> PictureHeader:
    head = handle.read(30)
    if 8 + int.from_bytes(head[4:8], "little") > handle.seek(0, io.SEEK_END):
        raise MediaUnreadableError("The WEBP picture ends early; upload the whole file again.")
    kind = head[12:16]
    if kind == b"VP8X":
        size = 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    elif kind == b"VP8L":
        bits = struct.unpack("<I", head[21:25])[0]
        size = 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF)
    else:
        width, height = struct.unpack("<HH", head[26:30])
        size = width & 0x3FFF, height & 0x3FFF
    handle.seek(12)
    chunks = _find_chunks(handle, (b"EXIF", b"ICCP"), "<4sI", trailer=0)
    is_animated = kind == b"VP8X" and bool(head[20] & 0x02)
    return PictureHeader(*size, exif_orientation(chunks.get(b"EXIF", b"")), is_animated, b"ICCP" in chunks)


def _find_chunks(handle: BinaryIO, wanted: Sequence[bytes], layout: str, trailer: int) -> dict[bytes, bytes]:
    """Bodies (up to 64 kB) of chunks in a PNG (length first, checksum behind) or RIFF (name first, padded to even)
    file."""
    found: dict[bytes, bytes] = {}
    for _ in range(_MAX_CHUNKS):
        head = handle.read(8)
        if len(head) < 8:
            break
        first, second = struct.unpack(layout, head)
        name, length = (first, second) if isinstance(first, bytes) else (second, first)
        begin = handle.tell()
        if name in wanted:
            found.setdefault(name, handle.read(min(length, 65536)))
        handle.seek(begin + length + (trailer or length % 2))
    return found


PAM_DEMUXER = "pam_pipe"
# The decoder of each kind, by Pillow's name: Pillow never chooses one itself.
_DECODERS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP", HEIC.name: "HEIF", AVIF.name: "AVIF"}
_EXIF_ORIENTATION = 0x0112
# Levels by which a profile may move a color of the test chart and still be sRGB in another rounding.
_SRGB_TOLERANCE = 2
_UNUSABLE = Note(
    "color_profile_unusable",
    "The color profile of the picture is missing or unusable, so its colors are approximate; send it in sRGB.",
)


@dataclass(frozen=True)
class Still:
    """orientation: EXIF, 1..8. pam: the picture in sRGB as a PAM file (RGB or RGB_ALPHA, 8 bit); None: FFmpeg reads
    the file itself. notes: what was guessed."""

    orientation: int
    pam: bytes | None = None
    notes: tuple[Note, ...] = ()


def read_still(handle: BinaryIO, kind: ContainerKind, check_size: Callable[[int, int], None]) -> Still:
    """check_size: raises for a size (width, height) that is too large; called before a pixel is decoded.

    Raises UnsupportedContainerError (an animation), MediaUnreadableError, PictureTooLargeError.
    """
    if kind.demuxer:
        header = read_picture_header(handle, kind.name)
        if header.is_animated:
            raise UnsupportedContainerError(refusal(ANIMATIONS[kind.name]))
        check_size(header.width, header.height)
        if not header.has_end:
            _check_pixels(handle)
        if not (header.has_profile or header.is_cmyk):
            return Still(header.orientation)
    return _read(handle, kind, check_size)


def _read(handle: BinaryIO, kind: ContainerKind, check_size: Callable[[int, int], None]) -> Still:
    from PIL import Image

    if kind is HEIC:
        import pillow_heif

        pillow_heif.register_heif_opener()
    handle.seek(0)
    try:
        with Image.open(handle, formats=[_DECODERS[kind.name]]) as image:
            check_size(*image.size)
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            orientation = orientation if orientation in range(1, 9) else 1
            profile = image.info.get("icc_profile") or b""
            if kind.demuxer and image.mode != "CMYK" and _is_srgb(profile):
                return Still(orientation)
            colors, notes = _to_srgb(image, profile)
            return Still(orientation, _pam(image, colors), notes)
    except Image.DecompressionBombError as error:
        raise PictureTooLargeError("The picture is too large; scale it down.") from error
    except (OSError, ValueError, SyntaxError, RuntimeError, EOFError) as error:
        raise MediaUnreadableError(
            f"The {kind.name.upper()} picture is damaged or incomplete; upload it again or convert it to JPEG."
        ) from error


def _check_pixels(handle: BinaryIO) -> None:
    """Of a JPEG. Raises MediaUnreadableError where pixels are missing: FFmpeg shows them in green by default."""
    handle.seek(0)
    try:
        with av.open(handle, mode="r", format=JPEG.demuxer) as container:
            stream = container.streams.video[0]
            stream.codec_context.options = {"err_detect": "explode"}
            next(container.decode(stream))
    except (av.FFmpegError, StopIteration) as error:
        raise MediaUnreadableError("The JPEG picture ends early; upload the whole file again.") from error


def _to_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, tuple[Note, ...]]:
    """The picture without its alpha, mode RGB."""
    from PIL import ImageCms

    is_gray = image.mode in ("1", "L", "LA", "I;16", "I", "F")
    colors = image if image.mode in ("RGB", "CMYK") else image.convert("L" if is_gray else "RGB")
    if profile:
        try:
            found: Any = ImageCms.profileToProfile(
                colors, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError):
            return colors.convert("RGB"), (_UNUSABLE,)
        return found, ()
    return colors.convert("RGB"), (_UNUSABLE,) if image.mode == "CMYK" else ()


def _is_srgb(profile: bytes) -> bool:
    """Whether a profile leaves the colors of a small chart as they are."""
    from PIL import Image, ImageCms

    levels = (0, 64, 128, 192, 255)
    chart = Image.new("RGB", (len(levels) ** 3, 1))
    chart.putdata([(red, green, blue) for red in levels for green in levels for blue in levels])
    try:
        seen: Any = ImageCms.profileToProfile(
            chart, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return False
    return all(abs(a - b) <= _SRGB_TOLERANCE for a, b in zip(chart.tobytes(), seen.tobytes(), strict=True))


def _pam(image: Image.Image, colors: Image.Image) -> bytes:
    """Netpbm's PAM: a header, then the pixels."""
    kind = "RGB"
    if image.has_transparency_data:
        colors = colors.copy()
        colors.putalpha(image.convert("RGBA").getchannel("A"))
        kind = "RGB_ALPHA"
    depth = len(colors.getbands())
    head = f"P7\nWIDTH {image.width}\nHEIGHT {image.height}\nDEPTH {depth}\nMAXVAL 255\nTUPLTYPE {kind}\nENDHDR\n"
    return head.encode() + colors.tobytes()
