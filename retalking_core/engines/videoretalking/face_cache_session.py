"""What depends on the video alone, for any speech: its track, its coefficients, its steady pictures.

Two files in a folder: `analysis.npz` and `references.u8`. The folder is an entry of a face cache, or a temporary one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from retalking_core.face_cache import FaceCache
from retalking_core.types import FaceTrack

# Raise it when the meaning of a stored number changes.
FORMAT = 2
REFERENCE_SHAPE = (3, 256, 256)
_REFERENCE_BYTES = 3 * 256 * 256
# 3.6 minutes at 25 frames a second. Faces of later frames are drawn anew each time they are shown.
MAX_REFERENCES = 2**30 // _REFERENCE_BYTES
_ANALYSIS, _REFERENCES = "analysis.npz", "references.u8"
_READ_BYTES = 2**20


@dataclass(frozen=True)
class FaceAnalysis:
    """Of the first n source frames. track: of all source frames, nothing visible from n on. coefficients: f32 [n, 262],
    zero where no face is visible."""

    track: FaceTrack
    coefficients: NDArray[np.float32]


class FaceCacheSession:
    """One video's entry. Reading and writing, by one thread."""

    def __init__(self, folder: Path, found: bool, keep: Callable[[], None] | None) -> None:
        self._folder, self._keep = folder, keep
        self.analysis = _read_analysis(folder) if found else None
        self._known = self._known_references() if found else np.zeros(0, np.bool_)
        self._recalled = self._added = 0

    @property
    def outcome(self) -> str:
        """`off`, `hit` (nothing was computed), `miss` (all of it) or `partial`."""
        if self._keep is None:
            return "off"
        if not self._recalled:
            return "miss"
        return "partial" if self._added else "hit"

    def remember(self, analysis: FaceAnalysis) -> None:
        track = analysis.track
        np.savez(
            self._folder / _ANALYSIS,
            boxes=track.boxes,
            landmarks=track.landmarks,
            visible=track.visible,
            covered=np.zeros_like(track.visible) if track.covered is None else track.covered,
            coefficients=analysis.coefficients,
        )
        self.analysis = analysis

    def knows(self, frames: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the reference pictures of these source frames are cached."""
        inside = frames < len(self._known)
        return inside & self._known[np.where(inside, frames, 0)] if len(self._known) else inside

    def references(self, frames: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Steady pictures u8 [B, 3, 256, 256], RGB, of source frames that are known."""
        self._recalled += len(frames)
        result = np.empty((len(frames), *REFERENCE_SHAPE), np.uint8)
        with (self._folder / _REFERENCES).open("rb") as file:
            for row, frame in zip(result, frames.tolist(), strict=True):
                file.seek(frame * _REFERENCE_BYTES)
                if file.readinto(row.data) != _REFERENCE_BYTES:
                    raise ValueError(f"the steady picture of frame {frame} is not whole")
        return result

    def remember_references(self, frames: NDArray[np.int64], pictures: NDArray[np.uint8]) -> None:
        """As `references` gives them. Those beyond `MAX_REFERENCES` are dropped."""
        kept = frames < MAX_REFERENCES
        if not kept.any():
            return
        file = self._folder / _REFERENCES
        with file.open("r+b" if file.exists() else "w+b") as out:
            for frame, picture in zip(frames[kept].tolist(), pictures[kept], strict=True):
                out.seek(frame * _REFERENCE_BYTES)
                out.write(np.ascontiguousarray(picture).data)
        known = np.zeros(max(len(self._known), int(frames[kept].max()) + 1), np.bool_)
        known[: len(self._known)] = self._known
        known[frames[kept]] = True
        self._known = known
        self._added += int(kept.sum())

    def keep(self) -> None:
        """Publish what was learned, if anything was."""
        if self._keep is not None and self._added:
            np.save(self._folder / "known.npy", self._known)
            self._keep()

    def _known_references(self) -> NDArray[np.bool_]:
        return np.load(self._folder / "known.npy", allow_pickle=False)


@contextmanager
def open_session(
    cache: FaceCache | None, key: Callable[[], str], waiting: Callable[[], None], scratch: Path
) -> Iterator[FaceCacheSession]:
    """Session of a video: in an entry of the cache, else in a temporary folder inside `scratch`."""
    if cache is None:
        with TemporaryDirectory(dir=scratch, prefix=".faces-") as folder:
            yield FaceCacheSession(Path(folder), found=False, keep=None)
        return
    with cache.open(key(), waiting) as entry:
        yield FaceCacheSession(entry.folder, entry.found, entry.keep)


def cache_key(video: Path, parts: Sequence[object]) -> str:
    """Digest of the video's bytes and of everything else that the entry depends on."""
    digest = hashlib.sha256(f"{FORMAT}".encode())
    with video.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    digest.update(repr(tuple(parts)).encode())
    return digest.hexdigest()


def analyzed_count(last_shown: int, frame_count: int) -> int:
    """How many source frames the first pass looks at: up to the last one shown, and on to a power of two, so that
    speeches of about one length share what is found, and a short one on a long video does not pay for all of it."""
    return min(frame_count, max(64, 1 << (last_shown).bit_length()))


def _read_analysis(folder: Path) -> FaceAnalysis:
    with np.load(folder / _ANALYSIS, allow_pickle=False) as arrays:
        track = FaceTrack(*(arrays[name] for name in ("boxes", "landmarks", "visible", "covered")))
        return FaceAnalysis(track, arrays["coefficients"])
