"""Stills that FFmpeg would show in wrong colors or cannot read: converted to sRGB by Pillow with LittleCMS.

Display P3, Adobe RGB, CMYK and other ICC profiles; HEIC and AVIF. Every other still is left to FFmpeg, which gives its
planes as they are stored.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import av

from retalking_core.errors import MediaUnreadableError, PictureTooLargeError, UnsupportedContainerError
from retalking_core.media.picture_header import read_picture_header
from retalking_core.notes import Note
from retalking_core.vocabulary.containers import ANIMATIONS, AVIF, HEIC, JPEG, ContainerKind, refusal

if TYPE_CHECKING:  # Pillow is imported only for the stills that need it
    from PIL import Image

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
