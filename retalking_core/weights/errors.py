"""What can be wrong with a weight file, by name. Messages carry the file's name, never its folder."""

from __future__ import annotations

from retalking_core.errors import RetalkingError


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
    """Fetching failed for good: no source is known, or it does not answer with the file."""

    code = "weights_unreachable"
