"""A decoder that can be asked for any picture by number: forward by decoding, elsewhere by the nearest key picture.

When each picture is shown is learned from the packets alone, before anything is decoded. Interlaced pictures come out
progressive, made of their fields by FFmpeg's `idet` and `bwdif`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import cast

import av
import numpy as np
from av.codec.context import CodecContext
from av.container import InputContainer
from av.filter import Graph
from av.filter.context import FilterContext
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from retalking_core.errors import CodecUnsupportedError, MediaTooLongError, MediaUnreadableError, NoVideoStreamError
from retalking_core.media.container import DAMAGED_PACKET, MediaFile, open_container, reading
from retalking_core.media.limits import MediaLimits
from retalking_core.media.planes import PlaneConverter
from retalking_core.types import FieldOrder, Frame


@dataclass(frozen=True)
class PacketTable:
    """shown: i64 [N] presentation stamps, ascending; last_ticks: how long the last picture stays.

    key_shown, key_seek: i64 [K] presentation stamp of each key picture, and the stamp to seek to for it.
    stamped: the container states presentation stamps; if not, pictures can only be counted from the start.
    """

    shown: NDArray[np.int64]
    last_ticks: int
    key_shown: NDArray[np.int64]
    key_seek: NDArray[np.int64]
    time_base: Fraction
    stamped: bool

    @property
    def times_s(self) -> NDArray[np.float64]:
        """f64 [N], the first one 0."""
        return (self.shown - self.shown[0]).astype(np.float64) * float(self.time_base)

    @property
    def duration_ticks(self) -> int:
        return int(self.shown[-1] - self.shown[0]) + self.last_ticks


def scan_packets(container: InputContainer, stream: VideoStream, limits: MediaLimits) -> PacketTable:
    """Read every packet of the stream once. Packets outside an edit list are left out, as players do.

    Raises MediaTooLongError, MediaUnreadableError (no packets, or fewer than the index of an MP4 promises).
    """
    # AVI stores no presentation stamps, and those made up for it are wrong where B pictures follow. Its pictures are
    # numbered, and a number without one holds the picture before.
    is_avi = container.format.name == "avi"
    stamps: list[int | None] = []
    keys: list[tuple[int, int]] = []
    found, ticks = 0, 0
    time_base = stream.time_base or Fraction(1, 90_000)
    limit_ticks = limits.max_video_s / time_base
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        found += 1
        if found > limits.max_frames:
            raise MediaTooLongError(
                f"The video has more than {limits.max_frames} pictures; cut it into shorter parts.",
                limit_frames=limits.max_frames,
            )
        if packet.is_keyframe and packet.pts is not None:
            seek = packet.pts if packet.dts is None else min(packet.pts, packet.dts)
            keys.append((packet.pts, seek))
        if packet.is_discard:
            continue
        stamps.append(packet.dts if is_avi else packet.pts)
        ticks = packet.duration or ticks
        if packet.pts is not None and stamps[0] is not None and packet.pts - stamps[0] > limit_ticks:
            raise too_long("video", None, limits.max_video_s)
    if not stamps:
        raise MediaUnreadableError("The video holds no pictures; upload the whole file again or re-export it.")
    table = _table(stamps, keys, ticks, stream, counted_only=is_avi)
    if table.duration_ticks > limit_ticks:
        raise too_long("video", float(table.duration_ticks * table.time_base), limits.max_video_s)
    indexed = len(stream.index_entries)
    if container.format.name.startswith("mov") and found < indexed:
        raise MediaUnreadableError(
            f"The video ends early: its index lists {indexed} pictures and only {found} are in the file. "
            "Upload the whole file again."
        )
    return table


def too_long(what: str, seconds: float | None, limit_s: float) -> MediaTooLongError:
    length = f"{seconds:.0f} s long" if seconds is not None else f"longer than {limit_s:.0f} s"
    return MediaTooLongError(
        f"The {what} is {length}; at most {limit_s:.0f} s are allowed. Cut it into shorter parts.", limit_s=limit_s
    )


def _table(
    stamps: list[int | None], keys: list[tuple[int, int]], ticks: int, stream: VideoStream, counted_only: bool
) -> PacketTable:
    """counted_only: pictures can be found by counting only."""
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    time_base = stream.time_base or Fraction(1, 90_000)
    step = max(1, round(1 / (rate * time_base)))
    stamped = None not in stamps
    if stamped:
        shown = np.sort(np.array(stamps, np.int64))
        # Two pictures with one stamp: the later one gets the next tick, so that times stay ascending.
        shown = np.maximum.accumulate(shown - np.arange(len(shown))) + np.arange(len(shown))
    else:
        shown = np.arange(len(stamps), dtype=np.int64) * step
    ordered = np.array(sorted(keys), np.int64).reshape(-1, 2)
    return PacketTable(
        shown=shown,
        last_ticks=int(ticks or (np.median(np.diff(shown)) if len(shown) > 1 else step)),
        key_shown=ordered[:, 0],
        key_seek=ordered[:, 1],
        time_base=time_base,
        stamped=stamped and not counted_only,
    )


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


# Pictures up to this size are decoded in one thread where there are only so many cores.
ONE_THREAD_PX, FEW_CORES = 1 << 20, 4


def video_stream(media: MediaFile) -> VideoStream:
    """The moving pictures that players show: the first decodable stream marked as default, else the first decodable
    one. Raises NoVideoStreamError, CodecUnsupportedError.
    """
    if not media.films:
        raise NoVideoStreamError("The file holds no video; send a video or a picture of a face.")
    decodable = [stream for stream in media.films if stream.codec_context is not None]
    if not decodable:
        raise CodecUnsupportedError("The video uses an unknown codec; convert it to H.264 in MP4.")
    return next((stream for stream in decodable if stream.disposition & Disposition.default), decodable[0])


def choose_threads(context: VideoCodecContext) -> None:
    """How many threads the decoder takes; its pictures are the same. On two cores one is enough for small pictures,
    since whoever looks at them takes longer (0.3 to 0.5 ms at 700 x 700), and more take a fifth more CPU time. On 16
    slower ones the neural engine's first pass took 0.40 and 0.44 s with many, and 0.47 s with one."""
    if context.width * context.height <= ONE_THREAD_PX and len(os.sched_getaffinity(0)) <= FEW_CORES:
        context.thread_count = 1
    else:
        context.thread_type = "AUTO"


# FFmpeg's own decoders of VP8 and VP9 leave the alpha of WebM out.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def _alpha_decoder(stream: VideoStream) -> VideoCodecContext | None:
    """The decoder for a stream that states an alpha channel; None where its own one reads it."""
    name = _ALPHA_DECODERS.get(stream.codec_context.name)
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    if name is None or tags.get("alpha_mode") != "1":
        return None
    decoder = cast(VideoCodecContext, CodecContext.create(name, "r"))
    decoder.thread_count = stream.codec_context.thread_count
    return decoder


class PictureDecoder:
    """Decoded pictures of one stream in order, progressive, damaged packets skipped. `seek` restarts at a key picture.

    field_order: of an interlaced stream, which is deinterlaced.
    """

    def __init__(self, media: MediaFile, limits: MediaLimits, field_order: FieldOrder = "") -> None:
        self._field_order = field_order
        self._container = media.container
        self._stream = video_stream(media)
        choose_threads(self._stream.codec_context)
        self._decoder = _alpha_decoder(self._stream) or self._stream.codec_context
        self._decoder.options = {"max_pixels": str(limits.max_picture_px)}

    def seek(self, stamp: int) -> None:
        self._decoder.flush_buffers()
        with reading("video"):
            self._container.seek(stamp, stream=self._stream, backward=True)

    def pictures(self) -> Generator[VideoFrame, None, None]:
        """Ends with the stream. A packet that does not decode is passed over: its picture is missing from the run."""
        decoded = self._decoded()
        return Deinterlacer(self._field_order).progressive(decoded) if self._field_order else decoded

    def _decoded(self) -> Generator[VideoFrame, None, None]:
        with reading("video"):
            for packet in self._container.demux(self._stream):
                try:
                    decoded = self._decoder.decode(packet if packet.size else None)
                except DAMAGED_PACKET:
                    continue
                for picture in decoded:
                    if not picture.is_corrupt:
                        yield picture


def _open_decoder(path: Path, limits: MediaLimits, field_order: FieldOrder) -> tuple[MediaFile, PictureDecoder]:
    """Nothing stays open when this raises."""
    media = open_container(path, limits)
    try:
        return media, PictureDecoder(media, limits, field_order)
    except BaseException:
        media.close()
        raise


class FrameCursor(AbstractContextManager["FrameCursor"]):
    """Frames by number from one open decoder. `damaged` collects the numbers that did not decode."""

    # Below this distance decoding on is cheaper than a seek, which throws away the decoder's threads' work.
    _NEAR_FRAMES = 24

    def __init__(
        self,
        path: Path,
        limits: MediaLimits,
        table: PacketTable,
        converter: PlaneConverter,
        damaged: set[int],
        field_order: FieldOrder = "",
    ) -> None:
        self._table = table
        self._converter = converter
        self._damaged = damaged
        self._path, self._limits, self._field_order = path, limits, field_order
        self._media, self._decoder = _open_decoder(path, limits, field_order)
        self._pictures = self._decoder.pictures()
        self._position = -1  # number of the picture decoded last
        self._ahead: tuple[int, VideoFrame] | None = None  # decoded, but later than what was asked for
        self._last: Frame | None = None  # last good frame given out

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """An exception that is still looked at holds this object: the decoder's pictures go now."""
        self._pictures.close()
        self._ahead = self._last = None
        del self._decoder
        self._media.close()

    def read(self, index: int) -> Frame:
        """The frame of this number; where it is damaged, the last good one before it under this number."""
        if self._last is not None and self._last.index == index:
            return self._last
        is_behind = self._last is not None and index < self._last.index
        if is_behind or self._jump_pays(index):
            self._jump(index)
        self._last = self._advance(index)
        return self._last

    def _advance(self, index: int) -> Frame:
        """Decode up to `index` from where the decoder stands, at or before it."""
        good: VideoFrame | None = None
        while self._ahead is None or self._ahead[0] < index:
            if self._ahead is not None:
                good = self._ahead[1]
            self._ahead = self._next_picture()
            if self._ahead is None:
                break
        if self._ahead is not None and self._ahead[0] == index:
            picture, self._ahead = self._ahead[1], None
            return self._converter.to_frame(picture, index)
        self._damaged.add(index)
        if good is not None:
            return self._converter.to_frame(good, index)
        if self._last is not None and self._last.index < index:
            return replace(self._last, index=index)
        if self._ahead is not None:  # damaged from the first picture on: the first good one stands in
            return self._converter.to_frame(self._ahead[1], index)
        raise MediaUnreadableError("The video does not decode; re-export it and upload it again.")

    def _next_picture(self) -> tuple[int, VideoFrame] | None:
        for picture in self._pictures:
            number = self._number(picture)
            if number is not None:
                self._position = number
                return number, picture
        return None

    def _number(self, picture: VideoFrame) -> int | None:
        """Number of a decoded picture by its stamp; None for one outside the edit list."""
        following = self._position + 1
        shown = self._table.shown
        if not self._table.stamped or picture.pts is None:
            return following if following < len(shown) else None
        number = int(np.searchsorted(shown, picture.pts, side="left"))
        if number < len(shown) and shown[number] == picture.pts:
            return max(number, following) if number == self._position else number
        return following if 0 < number <= following < len(shown) else None

    def _jump_pays(self, index: int) -> bool:
        if not self._table.stamped or index - self._position <= self._NEAR_FRAMES:
            return False
        key = int(np.searchsorted(self._table.key_shown, self._table.shown[index], side="right")) - 1
        return key >= 0 and self._table.key_shown[key] > self._table.shown[self._position + 1]

    def _jump(self, index: int) -> None:
        """Stand before `index`: at its key picture, or an earlier one when the container lands too late.

        Deinterlacing needs the picture before it, too."""
        first = max(0, index - 1) if self._field_order else index
        keys = np.searchsorted(self._table.key_shown, self._table.shown[first], side="right")
        for key in range(int(keys) - 1, max(int(keys) - 4, -1), -1) if self._table.stamped else ():
            self._restart(int(self._table.key_seek[key]))
            self._ahead = self._next_picture()
            if self._ahead is not None and self._ahead[0] <= index:
                return
        self._reopen()

    def _restart(self, stamp: int) -> None:
        self._pictures.close()
        self._decoder.seek(stamp)
        self._pictures = self._decoder.pictures()
        self._position, self._ahead, self._last = -1, None, None

    def _reopen(self) -> None:
        """From the very start: some containers have no usable index."""
        self._pictures.close()
        self._media.close()
        self._media, self._decoder = _open_decoder(self._path, self._limits, self._field_order)
        self._pictures = self._decoder.pictures()
        self._position, self._ahead, self._last = -1, None, None
