"""Interlaced video: whether a stream is, and progressive pictures from its fields, by FFmpeg's `idet` and `bwdif`."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from fractions import Fraction
from itertools import pairwise

import av
from av.filter import Graph
from av.filter.context import FilterContext
from av.video.frame import VideoFrame

from retalking_core.types import FieldOrder

# `idet` needs motion to decide. It sees more pictures while they are undecided or disagree.
_SURE_PICTURES, _MAX_PICTURES = 6, 60
# A slow vertical pan and a fade over a gradient differ between lines as fields do: by FFmpeg's threshold of 1.04 all
# progressive pictures that move by 1 or 2 lines were interlaced, by 1.2 none. Where flags say so, 1.04 is kept.
_UNFLAGGED = "intl_thres=1.2"
# Interlaced formats have 480 to 1080 lines (ITU-R BT.601, BT.709): larger unflagged pictures are not examined.
_MAX_INTERLACED_PX = 1088


def find_field_order(pictures: Iterable[VideoFrame]) -> FieldOrder:
    """The field order of a stream, from its first pictures in presentation order.

    What `idet` measures counts more than the flags, which are missing after many conversions, wrong in others, and set
    for progressive film in an interlaced format. Where nothing moves, the flags decide.
    """
    graph: _Graph | None = None
    flagged, counts = 0, {"tff": 0, "bff": 0, "progressive": 0}
    for number, picture in enumerate(pictures):
        flagged += picture.interlaced_frame
        if graph is None:
            if not picture.interlaced_frame and picture.height > _MAX_INTERLACED_PX:
                return ""
            graph = _Graph(picture, "idet", None if picture.interlaced_frame else _UNFLAGGED)
        elif not graph.takes(picture):
            break
        for analyzed in graph.filter(picture):
            found = {name: int(float(analyzed.metadata[f"lavfi.idet.multiple.{name}"])) for name in counts}
            counts.update(found)
        fields = counts["tff"] + counts["bff"]
        is_plain = not fields and not flagged and counts["progressive"] >= _SURE_PICTURES
        if is_plain or number + 1 >= _MAX_PICTURES:
            break
    fields = counts["tff"] + counts["bff"]
    if fields > counts["progressive"] and (fields >= _SURE_PICTURES or flagged):
        return "tff" if counts["tff"] >= counts["bff"] else "bff"
    return "auto" if flagged and not counts["progressive"] else ""


class Deinterlacer:
    """Progressive pictures, one for each picture, at its time stamp (`bwdif`, a field-rate filter, at frame rate).

    A picture leaves when its successor has arrived, since both neighbors are needed.
    """

    def __init__(self, order: FieldOrder) -> None:
        self._options = f"mode=send_frame:parity={order}:deint=all"
        self._graph: _Graph | None = None
        self._time_base: Fraction | None = None

    def progressive(self, pictures: Iterable[VideoFrame]) -> Generator[VideoFrame, None, None]:
        for picture in pictures:
            if self._graph is None or not self._graph.takes(picture):
                yield from self._flushed()
                self._graph = _Graph(picture, "bwdif", self._options)
                self._time_base = picture.time_base
            yield from map(self._stamped, self._graph.filter(picture))
        yield from self._flushed()

    def _flushed(self) -> Iterator[VideoFrame]:
        if self._graph is not None:
            yield from map(self._stamped, self._graph.filter(None))
            self._graph = None

    def _stamped(self, picture: VideoFrame) -> VideoFrame:
        """With the time base of the stream: bwdif halves it."""
        stamp, base, wanted = picture.pts, picture.time_base, self._time_base
        if stamp is not None and base is not None and wanted is not None and base != wanted:
            picture.pts = round(stamp * base / wanted)
            picture.time_base = wanted
        return picture


class _Graph:
    """A filter between a source and a sink, for pictures of one size and format."""

    def __init__(self, picture: VideoFrame, name: str, options: str | None = None) -> None:
        self._shape = _shape(picture)
        self._graph = Graph()
        source = self._graph.add_buffer(
            width=picture.width,
            height=picture.height,
            format=picture.format,
            time_base=picture.time_base or Fraction(1, 90_000),
        )
        chain: list[FilterContext] = [source, self._graph.add(name, options), self._graph.add("buffersink")]
        for first, second in pairwise(chain):
            first.link_to(second)
        self._graph.configure()

    def takes(self, picture: VideoFrame) -> bool:
        return _shape(picture) == self._shape

    def filter(self, picture: VideoFrame | None) -> Iterator[VideoFrame]:
        """What the filter gives for this picture; None flushes it."""
        self._graph.vpush(picture)
        while True:
            try:
                yield self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return


def _shape(picture: VideoFrame) -> tuple[int, int, str]:
    return picture.width, picture.height, picture.format.name
