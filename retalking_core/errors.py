"""Named errors of the library.

Each class carries the stable public `code`; the table with status and advice is in `jobs/errors.py` (a test compares
the two). Raise at the cause; the worker translates once.
"""

from __future__ import annotations

from typing import ClassVar


class RetalkingError(Exception):
    """Base of every named error. The message is a sentence that the caller can act on; it holds no local path."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InputError(RetalkingError):
    """The caller's video, picture or speech cannot be used. Trying again with the same file cannot help."""

    code = "media_unreadable"


class EmptyFileError(InputError):
    code = "file_empty"


class UnsupportedContainerError(InputError):
    """Not one of the containers in the allow-list (also: playlists, text, archives)."""

    code = "container_unsupported"


class MediaUnreadableError(InputError):
    """The container is of a known kind, but truncated or damaged."""

    code = "media_unreadable"


class CodecUnsupportedError(InputError):
    code = "codec_unsupported"


class NoVideoStreamError(InputError):
    code = "video_stream_missing"


class NoAudioStreamError(InputError):
    code = "audio_stream_missing"


class AudioTrackMissingError(InputError):
    """`audio_track` names a track that the speech file does not have."""

    code = "audio_track_missing"


class AudioEmptyError(InputError):
    """The audio stream holds no samples, or fewer than 20 ms."""

    code = "audio_empty"


class AudioInvalidError(InputError):
    """Samples that are not finite, or far beyond full scale."""

    code = "audio_invalid"


class MediaTooLongError(InputError):
    code = "media_too_long"


class PictureTooLargeError(InputError):
    code = "picture_too_large"


class TooManyStreamsError(InputError):
    code = "streams_too_many"


class FaceNotFoundError(InputError):
    """No frame of the whole video shows a usable face."""

    code = "face_not_found"


class SegmentsOverlapError(InputError):
    """Two segments ask one face to speak at the same time; `details["segments"]` has their numbers, from 0."""

    code = "segments_overlap"


class SegmentOutOfRangeError(InputError):
    """A segment's times are not within the video; `details["segment"]`: from 0."""

    code = "segment_out_of_range"


class SegmentOffsetError(InputError):
    """A segment skips all of its speech; `details["segment"]`: from 0."""

    code = "segment_offset_beyond_audio"


class SegmentTooShortError(InputError):
    """A segment in which no mouth can move; `details["segment"]`: from 0."""

    code = "segment_too_short"


class TooManySegmentsError(InputError):
    """More segments, or more different faces in them, than one render takes."""

    code = "segments_too_many"


class FaceMissingError(InputError):
    """`missing_face=fail` and some frames show no usable face; `details["ranges_s"]` names them."""

    code = "face_missing"


class OptionUnsupportedError(RetalkingError):
    """The option exists, but this engine cannot honor it."""

    code = "unsupported_option"


class EngineUnavailableError(RetalkingError):
    code = "engine_unavailable"


class EngineFaultError(RetalkingError):
    """The engine produced something it must never ship (NaN, constant picture, wrong size)."""

    code = "engine_fault"


class ProvenanceError(RetalkingError):
    """The result cannot be signed although the deployment signs its results. It is not shipped without."""

    code = "provenance_failed"


class OutOfMemoryError(RetalkingError):
    code = "out_of_memory"


class RenderCanceled(RetalkingError):
    """Raised by the progress hook when the caller wants no more of it; the engine stops at once and cleans up."""

    code = "canceled"


class MetricUnavailableError(Exception):
    """Raised when a metric is unavailable for this render; `reason` is the sentence for the caller."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class KernelsUnfitError(RetalkingError):
    """Compiled kernels are missing, damaged, wrong, or made for another GPU, version or batch size."""

    code = "kernels_unfit"


class WeightsError(RetalkingError):
    """Base of everything a weight file can be refused for."""

    code = "weights_invalid"


class WeightsMissingError(WeightsError):
    """The file is not in the folder."""

    code = "weights_missing"


class WeightsTruncatedError(WeightsError):
    """The file ends too early, or an archive member fails its checksum."""

    code = "weights_truncated"


class WeightsUnsafeError(WeightsError):
    """Reading the file would mean running code that stands in it."""

    code = "weights_unsafe"


class WeightsWrongFileError(WeightsError):
    """Not a checkpoint at all, or the checkpoint of another network."""

    code = "weights_wrong_file"


class WeightsKeyMismatchError(WeightsError):
    """The right network, but tensors are missing or unknown; `details` lists `missing` and `unexpected`."""

    code = "weights_key_mismatch"


class WeightsShapeMismatchError(WeightsError):
    """The right keys, but tensors of another shape or kind of number; `details["tensors"]` lists them."""

    code = "weights_shape_mismatch"


class WeightsDigestMismatchError(WeightsError):
    """The file is not the one that the lock file recorded."""

    code = "weights_digest_mismatch"


class WeightsUnreachableError(WeightsError):
    """Fetching failed permanently: no source is known, or it does not serve the file."""

    code = "weights_unreachable"
