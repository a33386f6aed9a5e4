"""Opening files that strangers sent: the kind is read from the bytes, the demuxer is forced, nothing else is opened.

Failures of decoders and demuxers become the library's named errors here, in one place.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

import av
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from retalking_core.errors import (
    CodecUnsupportedError,
    EmptyFileError,
    InputError,
    MediaUnreadableError,
    PictureTooLargeError,
    TooManyStreamsError,
    UnsupportedContainerError,
)
from retalking_core.media.limits import MediaLimits
from retalking_core.media.still import PAM_DEMUXER, read_still
from retalking_core.notes import Note
from retalking_core.vocabulary.containers import (
    HEAD_BYTES,
    WAV,
    ContainerKind,
    describe,
    locate,
    refusal,
    sniff,
)

UNSUPPORTED = (
    av.error.DecoderNotFoundError,
    av.error.PatchWelcomeError,
    av.error.NotImplementedError,
    av.error.BSFNotFoundError,
)

# What decoders answer to one damaged packet (EINVAL: sizes in it that no picture may have); the next may be fine.
DAMAGED_PACKET = (
    av.error.InvalidDataError,
    av.error.EOFError,
    av.error.ArgumentError,
    av.error.ExternalError,
    av.error.UnknownError,
    av.error.UndefinedError,  # the AAC decoder's own numbers
)


def input_error(error: Exception, kind: str) -> InputError:
    """The named error for a failed read of the caller's `kind` ("video", "picture", "speech file")."""
    if isinstance(error, UNSUPPORTED):
        return CodecUnsupportedError(
            f"The {kind} uses a codec or a codec feature that cannot be decoded here; convert it to H.264 and AAC."
        )
    return MediaUnreadableError(
        f"The {kind} is damaged or incomplete and cannot be read; upload the whole file again or re-export it."
    )


@contextmanager
def reading(kind: str) -> Iterator[None]:
    """Every FFmpeg failure inside the block leaves it as an `InputError`, but for one that no file can cause: EAGAIN,
    which decoders report when the machine lets them start no thread."""
    try:
        yield
    except av.error.BlockingIOError:
        raise
    except av.error.FFmpegError as error:
        raise input_error(error, kind) from error


# Codecs of still pictures. FFmpeg decodes a first picture of every stream to learn what a file holds, cover pictures
# too: a song of 12 MB with covers took 161 s and 7.3 GB, at each look. A film in one of these codecs states its size in
# the container, so nothing is lost by not decoding them then. JPEG is missing: of it FFmpeg reads the header alone.
_STILL_CODECS = frozenset(
    {"png", "apng", "gif", "bmp", "tiff", "webp", "webp_anim", "jpegls", "jpeg2000", "jpegxl", "qoi"}
)
# A WAV header says all there is to know; FFmpeg would decode 5 MB of samples to learn no more (16 ms for 5 s of speech,
# at each of a render's four looks at it; so 2 ms).
_WAV_PROBE_BYTES = "65536"
# A stream that has one picture, when another has so many (ten seconds), is a thumbnail.
_MANY_PICTURES = 250


class MediaFile:
    """An open container and its kind; a context manager. Owns the file handle.

    orientation: EXIF orientation 1..8 of a picture, 1 for everything else. notes: what was guessed to read it.
    films: the moving pictures, or the one picture; covers of songs and thumbnails of videos are none.
    thumbnails: indexes of the streams that are such.
    """

    def __init__(
        self,
        kind: ContainerKind,
        handle: BinaryIO,
        container: InputContainer,
        orientation: int = 1,
        notes: tuple[Note, ...] = (),
        thumbnails: frozenset[int] = frozenset(),
    ) -> None:
        self.kind = kind
        self.container = container
        self.orientation = orientation
        self.notes = notes
        self.films = [each for each in _films(container) if each.index not in thumbnails]
        self._handle = handle
        for stream in container.streams.video:
            if stream not in self.films:
                stream.discard = Discard.all

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
    handle: BinaryIO = path.open("rb")
    try:
        offset, kind = _sniff_handle(handle)
        orientation, notes, demuxer = 1, tuple[Note, ...](), kind.demuxer
        if kind.is_picture:
            still = read_still(handle, kind, lambda width, height: check_picture_size(width, height, limits))
            orientation, notes = still.orientation, still.notes
            if still.pam is not None:
                handle.close()
                handle, demuxer = BytesIO(still.pam), PAM_DEMUXER
        else:
            handle = cast(BinaryIO, _MediaBytes(handle, offset))
        handle.seek(0)
        with reading("file"):
            container = _open_forced(handle, kind, demuxer, limits)
            thumbnails, was_read = _find_thumbnails(container)
            if was_read:
                container.close()
                handle.seek(0)
                container = _open_forced(handle, kind, demuxer, limits)
    except BaseException:
        handle.close()
        raise
    media = MediaFile(kind, handle, container, orientation, notes, thumbnails)
    streams = len(container.streams)
    if streams > limits.max_streams:
        media.close()
        raise TooManyStreamsError(f"The file holds {streams} streams; at most {limits.max_streams} are allowed.")
    return media


def sniff_kind(head: bytes) -> ContainerKind:
    """The kind of container from the first bytes of a file (`HEAD_BYTES`). Raises UnsupportedContainerError."""
    kind = sniff(head)
    if kind is None:
        raise UnsupportedContainerError(refusal(describe(head)))
    return kind


def check_picture_size(width: int, height: int, limits: MediaLimits) -> None:
    """Raises PictureTooLargeError."""
    if max(width, height) > limits.max_side_px or width * height > limits.max_picture_px:
        raise PictureTooLargeError(
            f"The picture is {width}x{height}; at most {limits.max_side_px} pixels a side and "
            f"{limits.max_picture_px / 1e6:.0f} megapixels are allowed. Scale it down.",
            width=width,
            height=height,
        )


class _MediaBytes(io.RawIOBase):
    """A file from some offset on: what follows a tag, for demuxers that do not expect one.

    A seek to where no file reaches, as damaged headers ask for, is an error number for FFmpeg and no exception.
    """

    def __init__(self, handle: BinaryIO, offset: int) -> None:
        super().__init__()
        self._handle, self._offset = handle, offset

    def read(self, size: int = -1) -> bytes:
        return self._handle.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self._handle.seek(offset + (self._offset if whence == io.SEEK_SET else 0), whence) - self._offset
        except (OSError, OverflowError):
            return -errno.EINVAL

    def tell(self) -> int:
        return self._handle.tell() - self._offset

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._handle.close()
        super().close()


def _sniff_handle(handle: BinaryIO) -> tuple[int, ContainerKind]:
    """(where the media begins, its kind)."""

    def read(offset: int, size: int) -> bytes:
        handle.seek(offset)
        return handle.read(size)

    if not read(0, 1):
        raise EmptyFileError("The file is empty (0 bytes); upload it again.")
    offset, kind = locate(read)
    return offset, kind or sniff_kind(read(offset, HEAD_BYTES))


def _open_forced(handle: BinaryIO, kind: ContainerKind, demuxer: str, limits: MediaLimits) -> InputContainer:
    options = {
        # Holds while FFmpeg itself decodes a first picture to learn the pixel format. Wider than the limit, because
        # beyond it FFmpeg also forgets the size that the error message names.
        "max_pixels": str(4 * limits.max_picture_px),
        "max_streams": str(limits.max_streams + 64),
        "protocol_whitelist": "",
    }
    if demuxer == "mov":
        options |= {"enable_drefs": "0", "use_absolute_path": "0"}
    elif kind is WAV:
        options["probesize"] = _WAV_PROBE_BYTES
    if not kind.is_picture:
        options["codec_whitelist"] = _moving_codecs()
    return av.open(
        handle,
        mode="r",
        format=demuxer,
        options=options,
        metadata_errors="replace",
        buffer_size=256 * 1024,
        io_open=_refuse_nested,
    )


def _films(container: InputContainer) -> list[VideoStream]:
    return [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]


def _find_thumbnails(container: InputContainer) -> tuple[frozenset[int], bool]:
    """Indexes of the streams of one picture beside a stream of many, and whether packets were read to learn that."""
    films = _films(container)
    if len(films) < 2:
        return frozenset(), False
    counts = {stream.index: stream.frames for stream in films}
    was_read = not all(counts.values())
    if was_read:
        counts = dict.fromkeys(counts, 0)
        for packet in container.demux(*films):
            counts[packet.stream_index] += packet.size > 0
            if min(counts.values()) > 1 or max(counts.values()) > _MANY_PICTURES:
                break
    is_film = max(counts.values()) > 1
    return frozenset(index for index, count in counts.items() if is_film and count < 2), was_read


@cache
def _moving_codecs() -> str:
    """Everything but `_STILL_CODECS`, in FFmpeg's notation. Holds for FFmpeg's own first look only."""
    return ",".join(sorted(av.codecs_available - _STILL_CODECS))


def _refuse_nested(*_: Any) -> BinaryIO:
    """A container that points at another file or address gets nothing."""
    raise PermissionError("nested files are not opened")
