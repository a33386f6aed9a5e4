"""Frame sources over a frame source: one that decodes ahead in a thread, and one that keeps the decoded frames."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retalking_core.threads import ReadAhead
from retalking_core.types import DecodedClip, Frame, FrameSource, VideoInfo

BLOCK_FRAMES = 16


class PrefetchingFrameSource:
    """A `FrameSource` whose frames are decoded in another thread while the last one is looked at."""

    def __init__(self, source: FrameSource, depth: int = 4) -> None:
        self._source, self._depth = source, depth
        self.info: VideoInfo = source.info

    @property
    def damaged(self) -> AbstractSet[int]:
        """As of `VideoReader`."""
        return self._source.damaged

    def frames(self) -> Iterator[Frame]:
        return self._ahead(self._source.frames())

    def frames_at(self, indices: Sequence[int]) -> Iterator[Frame]:
        return self._ahead(self._source.frames_at(indices))

    def _ahead(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        with ReadAhead(frames, self._depth) as ahead:
            yield from ahead


class ExcerptFrameSource:
    """Some frames of a `FrameSource` that follow each other, counted from 0, as a source of its own."""

    def __init__(self, source: FrameSource, frames: range) -> None:
        self._source, self._frames = source, frames
        info, end = source.info, frames.stop
        times_s = info.frame_times_s
        end_s = float(times_s[end]) if end < info.frame_count else info.duration_s
        first_s = float(times_s[frames.start])
        shown_s = times_s[frames.start : end] - first_s
        self.info: VideoInfo = replace(info, frame_times_s=shown_s, duration_s=end_s - first_s)

    @property
    def damaged(self) -> AbstractSet[int]:
        """As of `VideoReader`."""
        return {number - self._frames.start for number in self._source.damaged if number in self._frames}

    def frames(self) -> Iterator[Frame]:
        return self.frames_at(range(len(self._frames)))

    def frames_at(self, indices: Sequence[int]) -> Iterator[Frame]:
        wanted = [self._frames[int(index)] for index in indices]
        for frame in self._source.frames_at(wanted):
            yield replace(frame, index=frame.index - self._frames.start)


class CachingFrameSource:
    """A `FrameSource` that decodes each frame once, where all of them fit into `max_bytes`; else it keeps nothing.

    Seeking the face, following it, looking for an open mouth and drawing each read the clip again otherwise. The bytes
    are copied into blocks: holding the decoder's own pictures took 0.2 ms a frame longer, since each needs fresh pages,
    while numpy asks for huge ones for a block. Several threads may read at a time.
    """

    def __init__(self, source: FrameSource, max_bytes: int) -> None:
        self._source = source
        self.info: VideoInfo = source.info
        self._frame_bytes = self.info.width * self.info.height * 3 // 2
        self._may_keep = self.info.frame_count * self._frame_bytes <= max_bytes
        self._kept: dict[int, Frame] = {}
        self._room: list[NDArray[np.uint8]] = []
        self._keeping = threading.Lock()

    @property
    def damaged(self) -> AbstractSet[int]:
        """As of `VideoReader`."""
        return self._source.damaged

    def held(self, path: Path) -> DecodedClip | None:
        """This source for others to read, where it keeps what it decodes. path: the file that it reads."""
        return DecodedClip(path, self) if self._may_keep else None

    def frames(self) -> Iterator[Frame]:
        return self.frames_at(range(self.info.frame_count))

    def frames_at(self, indices: Sequence[int]) -> Iterator[Frame]:
        wanted = [int(index) for index in indices]
        if not self._may_keep:
            yield from self._source.frames_at(wanted)
            return
        missing = [index for index in dict.fromkeys(wanted) if index not in self._kept]
        fresh = self._source.frames_at(missing)
        try:
            for index in wanted:
                while index not in self._kept:
                    frame = next(fresh)
                    with self._keeping:
                        if frame.index not in self._kept:
                            self._kept[frame.index] = self._copied(frame)
                yield self._kept[index]
        finally:
            if isinstance(fresh, Generator):
                fresh.close()

    def _copied(self, frame: Frame) -> Frame:
        if not self._room:
            self._room = list(np.empty((min(BLOCK_FRAMES, self.info.frame_count), self._frame_bytes), np.uint8))
        room = self._room.pop()
        planes, begin = [], 0
        for plane in (frame.y, frame.u, frame.v):
            kept = room[begin : begin + plane.size].reshape(plane.shape)
            kept[...] = plane
            kept.flags.writeable = False
            planes.append(kept)
            begin += plane.size
        return Frame(frame.index, *planes)
