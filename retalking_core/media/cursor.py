"""A decoder that can be asked for any picture by number: forward by decoding, elsewhere by the nearest key picture."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import cast

import numpy as np
from av.codec.context import CodecContext
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from retalking_core.errors import CodecUnsupportedError, MediaUnreadableError, NoVideoStreamError
from retalking_core.media.container import MediaFile, open_container
from retalking_core.media.faults import DAMAGED_PACKET, reading
from retalking_core.media.interlace import Deinterlacer
from retalking_core.media.limits import MediaLimits
from retalking_core.media.packets import PacketTable
from retalking_core.media.planes import PlaneConverter
from retalking_core.types import FieldOrder, Frame

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
