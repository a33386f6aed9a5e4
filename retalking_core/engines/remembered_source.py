"""A video whose decoded frames are kept between two passes as long as they are few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from retalking_core.types import Frame, FrameSource, VideoInfo

# About 5 s of 1080p. A longer video is decoded again, so that memory does not grow with its length.
MAX_BYTES = 2**29


class RememberedSource:
    """A `FrameSource` over another one. Frames are views of the decoder's own pictures and are never written to."""

    def __init__(self, source: FrameSource, max_bytes: int = MAX_BYTES) -> None:
        self.info: VideoInfo = source.info
        self._source = source
        self._kept: dict[int, Frame] = {}
        self._keeping = self.info.frame_count * self.info.width * self.info.height * 3 // 2 <= max_bytes

    def frames(self) -> Iterator[Frame]:
        return self.frames_at(range(self.info.frame_count))

    def frames_at(self, indices: Sequence[int]) -> Iterator[Frame]:
        if all(index in self._kept for index in indices):
            return (self._kept[index] for index in indices)
        return self._decoded(indices)

    def _decoded(self, indices: Sequence[int]) -> Iterator[Frame]:
        for frame in self._source.frames_at(indices):
            if self._keeping:
                self._kept[frame.index] = frame
            yield frame
