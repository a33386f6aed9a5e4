"""What is made of a result while it is being written: its frames, from the encoder's own packets, decoded again, and
excerpts of it for lists and messengers: a poster picture, and a small clip of its beginning with sound.

Excerpts are made of the encoder's own pictures, or of the finished file, as for a split job.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Set
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.codec.context import CodecContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

from retalking_core.errors import RenderCanceled
from retalking_core.media.container import reading
from retalking_core.media.cursor import choose_threads
from retalking_core.media.encoder import CODEC, PRESET
from retalking_core.media.planes import EXIF_TURNS, PlaneConverter, picture_color, picture_geometry
from retalking_core.types import DecodedClip, Frame, LineReport, Timeline, VideoInfo

log = logging.getLogger(__name__)

POSTER_PX = 960
PREVIEW_PX = 360
PREVIEW_S = 4.0
_JPEG_QUALITY = 85
# What keeps an excerpt from being made must not cost the render.
_FAULTS = (av.FFmpegError, OSError, ValueError)
_COLOR_TAGS = ("colorspace", "color_primaries", "color_trc", "color_range")


class Excerpts:
    """Poster and preview of one result: `poster` and `preview` are the files to write.

    A context manager around render and `finish`. The tap calls `begin` and `show`.
    """

    def __init__(self, poster: Path, preview: Path) -> None:
        self.poster, self.preview = poster, preview
        self._clip: PreviewClip | None = None
        self._fps, self._middle, self._shown = Fraction(0), 0, 0
        self._has_poster = False

    def __enter__(self) -> Excerpts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard_clip()

    def begin(self, frames: int, fps: Fraction, size: tuple[int, int], color: Mapping[str, int]) -> None:
        """frames, fps: of the whole result. size: (width, height) of its pictures. color: see `color_tags`."""
        self._fps, self._middle = fps, frames // 2
        self._try("preview", lambda: self._begin_clip(size, color))

    def show(self, picture: VideoFrame) -> None:
        """The next picture of the result, not kept. One that cannot be used is reported, and `finish` reads the file
        instead."""
        number, self._shown = self._shown, self._shown + 1
        if number == self._middle:
            self._has_poster = self._try("poster", lambda: save_poster(picture, self.poster))
        if self._clip is not None and number / self._fps < PREVIEW_S:
            clip = self._clip
            if not self._try("preview", lambda: clip.add(picture)):
                self._discard_clip()

    def finish(self, result: Path) -> list[Path]:
        """The files that could be made: what was not shown is read from the finished result."""
        clip, self._clip = self._clip, None
        if not self._has_poster:
            self._has_poster = self._try("poster", lambda: write_poster(result, self.poster))
        if clip is not None and self._shown:
            has_preview = self._try("preview", lambda: clip.finish(result))
        else:
            has_preview = self._try("preview", lambda: write_preview(result, self.preview))
        if clip is not None:
            clip.discard()
        return [path for path, is_made in ((self.poster, self._has_poster), (self.preview, has_preview)) if is_made]

    def _begin_clip(self, size: tuple[int, int], color: Mapping[str, int]) -> None:
        self._clip = PreviewClip(self.preview, size, self._fps, color)

    def _discard_clip(self) -> None:
        if self._clip is not None:
            self._clip.discard()
            self._clip = None

    def _try(self, name: str, make: Callable[[], None]) -> bool:
        try:
            make()
        except _FAULTS as fault:
            log.warning("%s failed", name, exc_info=fault)
            return False
        return True


class PreviewClip:
    """The small clip in the making: pictures from the beginning on, then `finish`.

    size: (width, height) of the pictures of the result. Raises av.FFmpegError, OSError, ValueError.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: Fraction, color: Mapping[str, int]) -> None:
        self._step = 1 / fps
        self._out = av.open(str(path), "w", format="mp4", container_options={"movflags": "+faststart"})
        stream = self._out.add_stream(CODEC, rate=fps, options={"crf": "27", **PRESET})
        assert isinstance(stream, av.VideoStream)
        self._pictures = stream
        self._pictures.width, self._pictures.height = fitted(*size, PREVIEW_PX)
        self._pictures.pix_fmt = "yuv420p"
        self._pictures.codec_context.thread_count = 1  # small pictures: more threads take a third more CPU time
        for tag, value in color.items():
            setattr(self._pictures.codec_context, tag, value)
        # The muxer wants to know of the sound before the first packet, and the sound is complete with the result.
        self._packets: list[Packet[av.VideoStream]] = []
        self._taken = 0

    def add(self, picture: VideoFrame) -> None:
        small = picture.reformat(width=self._pictures.width, height=self._pictures.height, format="yuv420p")
        small.pts, small.time_base = self._taken, self._step
        self._taken += 1
        self._packets += self._pictures.encode(small)

    def finish(self, result: Path) -> None:
        """With the sound of the result, as far as the pictures go."""
        packets = [*self._packets, *self._pictures.encode(None)]
        with av.open(str(result)) as media:
            track = media.streams.audio[0] if media.streams.audio else None
            sound = None
            if track is not None:
                sound = self._out.add_stream("aac", rate=track.rate, options={"b": "64k", "aac_coder": "fast"})
                sound.codec_context.layout = track.layout
            for packet in packets:
                self._out.mux(packet)
            if sound is not None:
                for frame in media.decode(track):
                    if not isinstance(frame, AudioFrame) or frame.time is None or frame.time >= PREVIEW_S:
                        break
                    self._out.mux(sound.encode(frame))
                self._out.mux(sound.encode(None))
        self._out.close()

    def discard(self) -> None:
        """Nothing more will be written. After `finish` nothing is left to do."""
        try:
            self._out.close()
        except _FAULTS:
            return


def color_tags(context: VideoCodecContext) -> dict[str, int]:
    """How the colors of an encoder's or decoder's pictures are to be read."""
    return {tag: getattr(context, tag) for tag in _COLOR_TAGS}


def write_poster(result: Path, poster: Path) -> None:
    """`save_poster` of the picture in the middle. result: a file that ResultWriter made. Raises av.FFmpegError,
    OSError."""
    with av.open(str(result)) as media:
        middle_s = float((media.duration or 0) / av.time_base) / 2
        media.seek(int(middle_s * av.time_base))
        shown = None
        for shown in media.decode(video=0):
            if shown.time is not None and shown.time >= middle_s:
                break
        if shown is None:
            raise ValueError("the result has no picture")
        save_poster(shown, poster)


def save_poster(picture: VideoFrame, poster: Path) -> None:
    """JPEG with at most POSTER_PX on its longer side."""
    width, height = fitted(picture.width, picture.height, POSTER_PX)
    rgb = picture.reformat(width=width, height=height, format="rgb24").to_ndarray()
    Image.fromarray(rgb).save(poster, "JPEG", quality=_JPEG_QUALITY)


def write_preview(result: Path, preview: Path) -> None:
    """MP4 (H.264, AAC) of the first PREVIEW_S seconds, with at most PREVIEW_PX on its longer side. result and errors:
    as in write_poster."""
    with av.open(str(result)) as media:
        source = media.streams.video[0]
        assert source.average_rate is not None  # ResultWriter states it
        color = color_tags(source.codec_context)
        clip = PreviewClip(preview, (source.width, source.height), source.average_rate, color)
        try:
            for picture in media.decode(source):
                if picture.time is None or picture.time >= PREVIEW_S:
                    break
                clip.add(picture)
            clip.finish(result)
        finally:
            clip.discard()


def fitted(width: int, height: int, longest: int) -> tuple[int, int]:
    """Even width and height with at most `longest` on the longer side, in the same proportion; never larger."""
    scale = min(1.0, longest / max(width, height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


# Of packets that wait to be decoded. Beyond it the encoder waits: the job ends with the slower of the two anyway.
WAITING_BYTES = 64 << 20
_UPRIGHT = EXIF_TURNS[0]


class ResultTap:
    """Hands the packets of a `ResultWriter` to one reader in another thread, which reads it as a `FrameSource`, once.

    The frames are those of the finished file: the same packets through the same decoder. excerpts: get the pictures
    themselves, in the writer's thread.

    The engine calls `announce`; the writer `begin`, `show`, `put` and `end`; the reader `open`, then `frames`. `close`
    may be called from any thread: the reader stops, and the writer is not held up any more.

    info, first_picture: of the pictures, once open; first_picture as the decoder gives it. damaged: as of
    `VideoReader`, always empty. read: how many frames the reader was given.
    """

    info: VideoInfo
    first_picture: VideoFrame

    def __init__(self, excerpts: Excerpts | None = None) -> None:
        self._excerpts = excerpts
        self._changed = threading.Condition()
        self._packets: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._header: bytes | None = None
        self._timeline: Timeline | None = None
        self._size = (0, 0)
        self._container = ""
        self.is_complete = self._is_closed = False
        self.damaged: Set[int] = frozenset()
        self.face_boxes: NDArray[np.float32] | None = None
        self.lines: tuple[LineReport, ...] = ()
        self.held: DecodedClip | None = None
        self.read = 0

    # The render's side

    def announce(
        self,
        face_boxes: NDArray[np.float32] | None,
        held: DecodedClip | None,
        lines: tuple[LineReport, ...] = (),
    ) -> None:
        """Before the first frame is written: `RenderReport.face_boxes`, `.held` and `.lines` of the report to come; of
        the lines, what is not about their faces may be missing."""
        self.face_boxes, self.held, self.lines = face_boxes, held, lines

    def begin(self, timeline: Timeline, container: str, encoder: VideoCodecContext) -> None:
        """encoder: of the pictures, open."""
        self._timeline, self._container, self._header = timeline, container, encoder.extradata
        self._size = encoder.width, encoder.height
        if self._excerpts is not None:
            self._excerpts.begin(len(timeline.source_index), timeline.fps, self._size, color_tags(encoder))

    def show(self, picture: VideoFrame) -> None:
        """The next picture, as it is given to the encoder."""
        if self._excerpts is not None:
            self._excerpts.show(picture)

    def put(self, packets: Sequence[Packet[Any]]) -> None:
        """Copies the packets: the muxer takes them. Waits while WAITING_BYTES are not read yet."""
        copies = [bytes(packet) for packet in packets]
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._waiting_bytes < WAITING_BYTES)
            if not self._is_closed:
                self._packets.extend(copies)
                self._waiting_bytes += sum(map(len, copies))
                self._changed.notify_all()

    def end(self) -> None:
        """The file has its name, with all that was put."""
        with self._changed:
            self.is_complete = True
            self._changed.notify_all()

    # The reader's side

    def open(self) -> bool:
        """Waits for the first frame. False: there is none, since the engine writes no packets here or has failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._packets or self.is_complete or self._is_closed)
            if self._is_closed or not self._packets:
                return False
            first = self._packets[0]
        # Our encoder holds no picture back: the first packet is a key picture.
        decoder = self._decoder()
        with reading("video"):
            picture = [*decoder.decode(Packet(first)), *decoder.decode(None)][0]
        assert self._timeline is not None
        count, fps = len(self._timeline.source_index), self._timeline.fps
        self.first_picture = picture
        self.info = VideoInfo(
            width=picture.width,
            height=picture.height,
            fps=fps,
            frame_times_s=np.arange(count) / float(fps),
            duration_s=self._timeline.duration_s,
            rotation_deg=0,
            color=picture_color(picture, "h264"),
            is_still=False,
            container=self._container,
            codec="h264",
        )
        return True

    def frames(self) -> Generator[Frame, None, None]:
        """Every frame as soon as it is encoded; ends when the file is complete. Raises RenderCanceled when it never
        will be."""
        decoder = self._decoder()
        converter = PlaneConverter(picture_geometry(self.first_picture, None, _UPRIGHT), self.info.color)
        try:
            for packet in chain(self._received(), [None]):
                with reading("video"):
                    pictures = decoder.decode(None if packet is None else Packet(packet))
                for picture in pictures:
                    self.read += 1
                    yield converter.to_frame(picture, self.read - 1)
        finally:
            self.close()

    def frames_at(self, indices: Sequence[int]) -> Iterator[Frame]:
        raise NotImplementedError("a result in the making is read in order")

    def close(self) -> None:
        """Nothing more is read. What is put from now on is dropped."""
        with self._changed:
            self._is_closed = True
            self._packets.clear()
            self._changed.notify_all()

    def _received(self) -> Iterator[bytes]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._packets or self.is_complete or self._is_closed)
                if self._is_closed:
                    raise RenderCanceled("The result is not being written any more.")
                if not self._packets:
                    return
                packet = self._packets.popleft()
                self._waiting_bytes -= len(packet)
                self._changed.notify_all()
            yield packet

    def _decoder(self) -> VideoCodecContext:
        decoder = CodecContext.create("h264", "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.extradata = self._header
        decoder.width, decoder.height = self._size
        choose_threads(decoder)
        return decoder
