"""Translation of decoder and demuxer failures into the library's named errors, in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import av

from retalking_core.errors import CodecUnsupportedError, InputError, MediaUnreadableError

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
