"""The frames of a result while it is being written: the encoder's own packets, decoded again."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence, Set
from itertools import chain
from typing import Any

import numpy as np
from av.codec.context import CodecContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from retalking_core.errors import RenderCanceled
from retalking_core.media.cursor import choose_threads
from retalking_core.media.excerpts import Excerpts, color_tags
from retalking_core.media.faults import reading
from retalking_core.media.planes import EXIF_TURNS, PlaneConverter, picture_color, picture_geometry
from retalking_core.types import DecodedClip, Frame, LineReport, Timeline, VideoInfo

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
